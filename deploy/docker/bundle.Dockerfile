# The service with a model bundle baked in. The build context is the folder of the bundle alone:
#
#   docker build --file deploy/docker/bundle.Dockerfile --build-arg IMAGE=virnucpro-stream:cuda \
#       --tag virnucpro-stream:virnucpro-500 bundles/virnucpro-500
#
# Pin the service's image by its digest, as that one pins its base.
ARG IMAGE=virnucpro-stream:local

# hadolint ignore=DL3006
FROM ${IMAGE}

COPY --chmod=0755 . /opt/models/bundle
ENV VIRNUCPRO_MODEL=/opt/models/bundle

# A folder that is not a bundle ends the build. The service checks every sha256 when it loads the model.
RUN ["virnucpro", "models", "show", "/opt/models/bundle"]
