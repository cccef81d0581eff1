"""The command `embedding-doctor`: describes this machine and a bundle on it, and gives advice."""


def main(argv: list[str] | None = None) -> int:
    """Run the command; see `doctor.cli`."""
    from embedding_runtime.doctor import cli  # what examines a machine is used without the command

    return cli.main(argv)
