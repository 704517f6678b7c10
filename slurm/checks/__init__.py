"""What `cxr doctor` asks, one small function a question: of the scheduler, of this machine, of the nodes."""
