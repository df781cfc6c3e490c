"""What lies in ``sys-path`` is imported by tests that put it on ``sys.path``, and not collected."""

collect_ignore = ["sys-path"]
