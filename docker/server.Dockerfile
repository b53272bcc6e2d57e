# The model server: Triton, the fpga backend and the CPU's OpenCL driver. Build from the checkout's root:
#   docker build -f docker/server.Dockerfile -t triton-fpga/server .
# On NVIDIA's own Triton image (Python 3.12 and numpy 2, GPU backends included; the plugin is the same):
#   docker build -f docker/server.Dockerfile -t triton-fpga/server:nvidia . \
#     --build-arg BASE_IMAGE=nvcr.io/nvidia/tritonserver:26.08-py3 --build-arg LOCK=server-py312 \
#     --build-arg TRITON_SERVER_ROOT=/opt/tritonserver
ARG BASE_IMAGE=python:3.11-slim

# hadolint ignore=DL3006
FROM ${BASE_IMAGE} AS build
ARG LOCK=server-py311
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_CACHE_DIR=/var/cache/pip
# Environments without pip: the base image's own pip fills them, so that none is left in the result.
RUN python3 -m venv --without-pip /opt/build && python3 -m venv --without-pip /opt/triton-fpga
COPY docker/build.lock docker/${LOCK}.lock /locks/
# The secret `ca` is for networks that inspect TLS; without it the mounts are empty.
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
COPY training/retrain training/retrain
RUN /opt/build/bin/hatchling build --target wheel --directory /wheel \
 && python3 -m pip --python /opt/triton-fpga/bin/python install --quiet --no-deps --no-index /wheel/*.whl
COPY docker/slim.py /slim.py
RUN python3 /slim.py /opt/triton-fpga

# hadolint ignore=DL3006
FROM ${BASE_IMAGE}
ARG TRITON_SERVER_ROOT=
# tini reaps what a killed server leaves; pip is the base image's and of no use in a read-only container.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends tini \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/* \
 && python3 -m pip uninstall --quiet --yes --root-user-action=ignore --break-system-packages pip setuptools wheel \
 && groupadd --gid 10001 triton \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin triton \
 && install --directory --owner=10001 --group=10001 /models /var/cache/triton-fpga /run/triton-fpga
COPY --from=build /opt/triton-fpga /opt/triton-fpga
COPY docker/healthcheck.py docker/seed.py /opt/triton-fpga/libexec/
ENV PATH=/opt/triton-fpga/bin:${PATH} \
    HOME=/tmp \
    TMPDIR=/run/triton-fpga \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    XDG_CACHE_HOME=/var/cache/triton-fpga \
    TRITON_SERVER_ROOT=${TRITON_SERVER_ROOT}
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000 8001 8002 8003
HEALTHCHECK --interval=5s --timeout=4s --start-period=120s --start-interval=1s --retries=2 \
    CMD ["python3", "/opt/triton-fpga/libexec/healthcheck.py"]
ENTRYPOINT ["/usr/bin/tini", "-g", "--", "triton-fpga"]
CMD ["serve", "--model-repository=/models", "--address=0.0.0.0", "--admin-key-file=/tmp/admin-key"]
