"""The name of an image in a registry. Only a digest names one image for ever; a tag may be another one tomorrow."""

import re
from dataclasses import dataclass

from cxr_core.errors import UserError

_FORM = re.compile(
    r"(?:docker://)?(?P<registry>[\w.-]+(?::\d+)?)/(?P<name>[a-z0-9._/-]+?)(?::(?P<tag>[\w][\w.-]*))?"
    r"(?:@sha256:(?P<digest>[0-9a-f]{64}))?"
)


@dataclass(frozen=True)
class Reference:
    """`registry/name@sha256:digest`."""

    registry: str
    name: str
    digest: str

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Read a reference. Raises UserError if it has no digest, with the command that finds it, or no registry."""
        found = _FORM.fullmatch(text)
        if found is None or not ({".", ":"} & set(found["registry"]) or found["registry"] == "localhost"):
            raise UserError(
                "no reference of an image", where=text, hint="write REGISTRY/NAME@sha256:DIGEST, all in small letters"
            )
        if found["digest"] is None:
            tagged = f"{found['registry']}/{found['name']}:{found['tag'] or 'latest'}"
            raise UserError(
                "a tag may name another image tomorrow: give the digest",
                where=text,
                hint=f"`skopeo inspect --format '{{{{.Name}}}}@{{{{.Digest}}}}' docker://{tagged}` prints what to give",
            )
        return cls(found["registry"], found["name"], found["digest"])

    @property
    def is_local(self) -> bool:
        """Whether the registry is on this machine, where it needs no TLS."""
        return re.fullmatch(r"(localhost|127\.\d+\.\d+\.\d+)(:\d+)?", self.registry) is not None

    def __str__(self) -> str:
        return f"{self.registry}/{self.name}@sha256:{self.digest}"
