# Notebooks that retrain and publish into the running service. Build from the checkout's root:
#   docker build -f docker/notebooks.Dockerfile -t triton-fpga/notebooks .
# LOCK=notebooks-light leaves training out (no torch, a tenth of the size): tag, compare, publish, roll back.
ARG BASE_IMAGE=python:3.11-slim

# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS build
ARG LOCK=notebooks-training
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_CACHE_DIR=/var/cache/pip
RUN python3 -m venv --without-pip /opt/build && python3 -m venv --without-pip /opt/triton-fpga
COPY docker/build.lock docker/${LOCK}.lock /locks/
RUN --mount=type=secret,id=ca,target=/run/ca.pem --mount=type=cache,target=/var/cache/pip \
    if [ -s /run/ca.pem ]; then export PIP_CERT=/run/ca.pem; fi \
 && python3 -m pip --python /opt/build/bin/python install --quiet --no-deps --require-hashes -r /locks/build.lock \
 && python3 -m pip --python /opt/triton-fpga/bin/python install --quiet --no-deps --require-hashes -r "/locks/${LOCK}.lock"
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY fpga_ops fpga_ops
COPY backends backends
COPY clients clients
COPY benchmarks/triton_fpga_bench benchmarks/triton_fpga_bench
COPY training training
RUN /opt/build/bin/hatchling build --target wheel --directory /wheel \
 && python3 -m pip --python /opt/triton-fpga/bin/python install --quiet --no-deps --no-index /wheel/*.whl \
 && mkdir -p /opt/triton-fpga/notebooks \
 && find training/notebooks -maxdepth 1 -type f -exec cp {} /opt/triton-fpga/notebooks \;
COPY docker/slim.py /slim.py
RUN python3 /slim.py /opt/triton-fpga

# hadolint ignore=DL3006
FROM ${BASE_IMAGE}
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/* \
 && python3 -m pip uninstall --quiet --yes --root-user-action=ignore --break-system-packages pip setuptools wheel \
 && groupadd --gid 10001 triton \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /notebooks --shell /bin/bash triton \
 && install --directory --owner=10001 --group=10001 /models /notebooks
COPY --from=build /opt/triton-fpga /opt/triton-fpga
ENV PATH=/opt/triton-fpga/bin:${PATH} \
    HOME=/notebooks \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    JUPYTER_RUNTIME_DIR=/tmp/jupyter \
    IPYTHONDIR=/tmp/ipython \
    MPLCONFIGDIR=/tmp/matplotlib
USER 10001:10001
WORKDIR /notebooks
EXPOSE 8888
HEALTHCHECK --interval=10s --timeout=4s --start-period=60s --start-interval=2s \
    CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8888/api', timeout=3)"]
ENTRYPOINT ["/usr/bin/tini", "-g", "--"]
# The shipped notebooks are copied beside the user's own work, which is never overwritten.
CMD ["sh", "-c", "cp -n /opt/triton-fpga/notebooks/* /notebooks/ 2>/dev/null; exec jupyter lab --ip=0.0.0.0 --port=8888 --no-browser --ServerApp.root_dir=/notebooks"]
