"""Certificates and tokens of the `secure` profile, with openssl and nothing else.

    python docker/credentials.py init --name gpu01.example.org    CA, server certificate, token key (docker/secrets/)
    python docker/credentials.py token alice --days 30            print a token for alice
    python docker/credentials.py renew --name gpu01.example.org   a new server certificate; tokens stay valid

The proxy gets the folder secrets/proxy: server.crt, server.key and jwks.json (the public half of the token key).
Clients get secrets/ca.crt and a token. token.key signs tokens and ca.key certificates: keep them off the serving
machine. A site with its own certificates puts server.crt and server.key there itself; one with its own token issuer
puts its key set in jwks.json, or its address in `remote_jwks` of envoy-secure.yaml.
"""

import argparse
import base64
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "secrets"
PROXY = "proxy"
"""What of the folder is mounted into the proxy's container."""
ISSUER = AUDIENCE = "triton-fpga"
MOST_DAYS = 36_500


class SecretsError(Exception):
    """What is wrong, and what to do."""


def init(folder: Path, names: list[str], days: int) -> None:
    """Make the CA, the server's certificate and the token key. Raises SecretsError where there is one already."""
    if (folder / "token.key").exists():
        raise SecretsError(f"{folder} holds secrets already; use `renew` for a certificate, or move the folder away")
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    (folder / PROXY).mkdir(exist_ok=True)
    _openssl("req", "-x509", "-newkey", "rsa:3072", "-nodes", "-days", str(10 * days), "-subj", "/CN=triton-fpga CA",
             "-keyout", folder / "ca.key", "-out", folder / "ca.crt")  # fmt: skip
    _openssl("genrsa", "-out", folder / "token.key", "3072")
    for name in ("ca.key", "token.key"):
        (folder / name).chmod(0o600)
    modulus = bytes.fromhex(_openssl("rsa", "-in", folder / "token.key", "-noout", "-modulus").partition("=")[2])
    key = {"kty": "RSA", "alg": "RS256", "use": "sig", "kid": "1", "n": _base64url(modulus), "e": "AQAB"}
    (folder / PROXY / "jwks.json").write_text(json.dumps({"keys": [key]}, indent=2) + "\n")
    renew(folder, names, days)


def renew(folder: Path, names: list[str], days: int) -> None:
    """Make a server certificate for these names and addresses, signed by the folder's CA."""
    if not (folder / "ca.key").is_file():
        raise SecretsError(f"no {folder / 'ca.key'}: run `init` first, or let your site's CA sign")
    known = dict.fromkeys([*names, "localhost", "127.0.0.1"])
    entries = [f"{'IP' if _is_address(name) else 'DNS'}:{name}" for name in known]
    with tempfile.TemporaryDirectory() as scratch:
        request, extensions = Path(scratch) / "request", Path(scratch) / "extensions"
        extensions.write_text(f"subjectAltName={','.join(entries)}\nextendedKeyUsage=serverAuth\n")
        _openssl("req", "-newkey", "rsa:3072", "-nodes", "-subj", f"/CN={entries[0].partition(':')[2]}",
                 "-keyout", Path(scratch) / "server.key", "-out", request)  # fmt: skip
        _openssl("x509", "-req", "-in", request, "-days", str(days), "-extfile", extensions,
                 "-CA", folder / "ca.crt", "-CAkey", folder / "ca.key", "-CAcreateserial",
                 "-CAserial", Path(scratch) / "serial", "-out", folder / PROXY / "server.crt")  # fmt: skip
        shutil.move(Path(scratch) / "server.key", folder / PROXY / "server.key")
    # The proxy's user has no name on this machine. Others here are kept out by the mode of the folder above.
    for name in ("server.crt", "server.key"):
        (folder / PROXY / name).chmod(0o644)


def token(folder: Path, subject: str, days: float) -> str:
    """A signed token (RFC 7519, RS256) for ``subject``."""
    key = folder / "token.key"
    if not key.is_file():
        raise SecretsError(f"no {key}: run `init` first")
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + int(days * 86400)}
    header = {"alg": "RS256", "typ": "JWT", "kid": "1"}
    text = ".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
    return f"{text}.{_base64url(_run('dgst', '-sha256', '-sign', key, given=text.encode()))}"


def _openssl(*arguments: str | os.PathLike[str]) -> str:
    return _run(*arguments).decode().strip()


def _run(*arguments: str | os.PathLike[str], given: bytes = b"") -> bytes:
    try:
        return subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise SecretsError("openssl is not installed") from None
    except subprocess.CalledProcessError as error:
        raise SecretsError(f"openssl {arguments[0]}: {error.stderr.decode(errors='replace').strip()}") from error


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _is_address(name: str) -> bool:
    return ":" in name or name.replace(".", "").isdigit()


def _days(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value <= MOST_DAYS:
        raise argparse.ArgumentTypeError(f"expected a number above 0, at most {MOST_DAYS}, came {text!r}")
    return value


def _whole_days(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= MOST_DAYS:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {MOST_DAYS}, came {text!r}")
    return int(text)


def main() -> int:
    """Exit code 0, or 2 with a message."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="default: %(default)s")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("init", "renew"):
        sub = commands.add_parser(command)
        sub.add_argument("--name", action="append", default=[], help="host name or address clients use (repeatable)")
        sub.add_argument("--days", type=_whole_days, default=365)
    sub = commands.add_parser("token")
    sub.add_argument("subject")
    sub.add_argument("--days", type=_days, default=30.0)
    args = parser.parse_args()
    try:
        if args.command == "token":
            sys.stdout.write(token(args.folder, args.subject, args.days) + "\n")
        else:
            (init if args.command == "init" else renew)(args.folder, args.name, args.days)
    except (SecretsError, OSError) as error:
        sys.stderr.write(f"credentials: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
