"""Entry point: `voicechat`, or `python -m voicechat`. Ctrl-C ends quietly even while modules load."""

from __future__ import annotations

import gc


def main() -> None:
    """Run the command line."""
    gc.disable()  # nothing is garbage yet: a tenth of the time of --help; a command turns it on
    try:
        from voicechat.runtime.process import guarded_process

        with guarded_process():
            from voicechat.cli import app

            app()
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
