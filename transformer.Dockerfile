# The transformer of the InferenceService:
#   docker build -t sklearn-transformer -f transformer.Dockerfile .
# The base is the one of KServe's predictor image (python/sklearn.Dockerfile), so that both unpickle with the same Python.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS builder
COPY scripts/requirements-image.txt .
# A third of the installed bytes are the libraries' own tests.
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --only-binary :all: --require-hashes -r requirements-image.txt \
 && /venv/bin/pip uninstall --yes pip setuptools \
 && find /venv -type d -name tests -prune -exec rm -r {} +

FROM ${BASE_IMAGE}
COPY --from=builder /venv /venv
COPY transformer.py /app/
# A number, because Kubernetes checks runAsNonRoot by it.
USER 1000
EXPOSE 8080 8081
ENTRYPOINT ["/venv/bin/python", "/app/transformer.py"]
