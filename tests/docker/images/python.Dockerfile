# Stand-in for python:3.11-slim where no image can be pulled: Debian's interpreter, with a pip that is no Debian package.
ARG BASE_IMAGE=debian:bookworm-slim
FROM ${BASE_IMAGE}
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 libpython3.11 python3-pip-whl python3-distutils \
 && wheel=$(echo /usr/share/python-wheels/pip-*.whl) \
 && python3 "$wheel/pip" install --no-index --no-cache-dir --break-system-packages "$wheel" \
 && apt-get purge --yes python3-pip-whl \
 && rm -rf /var/lib/apt/lists/* \
 && python3 -m pip --version
CMD ["python3"]
