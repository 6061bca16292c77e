# nc-strategies in a container: docker build -t nc-strategies . && docker run --rm nc-strategies list
# Arguments of the build: EXTRAS, the package's extras; PLUGINS, names of folders in plugins/, separated by spaces.
FROM python:3.11-slim-bookworm AS build
ARG EXTRAS="onnxruntime,metrics,images,text,report"
ARG PLUGINS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/nc-strategies
WORKDIR /source
COPY constraints.txt pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY conf conf
COPY nc_strategies nc_strategies
COPY plugins plugins
RUN /opt/nc-strategies/bin/pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]" \
    && for name in ${PLUGINS}; do \
         /opt/nc-strategies/bin/pip install --no-cache-dir -c constraints.txt "./plugins/${name}" || exit 1; \
       done

FROM python:3.11-slim-bookworm
RUN useradd --uid 1000 --create-home tuner
COPY --from=build /opt/nc-strategies /opt/nc-strategies
# Caches in a folder that any user can write, because `docker run --user` may name one without a home.
ENV PATH="/opt/nc-strategies/bin:${PATH}" \
    PYTHONUNBUFFERED=1 \
    XDG_CACHE_HOME=/tmp/cache
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["nc-strategies"]
CMD ["--help"]
