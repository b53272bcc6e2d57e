"""The container's health: what the supervisor's end point says, which asks every model for a known answer."""

import os
import sys
import urllib.error
import urllib.request

URL = f"http://127.0.0.1:{os.environ.get('TRITON_FPGA_HEALTH_PORT', '8003')}/ready"


def main() -> int:
    """0 when every model serves; the reason otherwise goes to the engine's health log."""
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever http_proxy says
        with direct.open(URL, timeout=3) as answer:
            sys.stdout.write(answer.read().decode())
    except urllib.error.HTTPError as error:
        sys.stdout.write(error.read().decode())
        return 1
    except OSError as error:
        sys.stdout.write(f"the supervisor does not answer at {URL}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
