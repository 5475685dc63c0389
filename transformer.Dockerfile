# The transformer of the InferenceService:
#   docker build -t sklearn-transformer -f transformer.Dockerfile .
# The base is the one of KServe's predictor image (python/sklearn.Dockerfile), so that both unpickle with the same Python.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS builder
WORKDIR /app
COPY scripts/requirements-image.txt .
# The libraries' own tests are a fifth of what is installed.
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --no-compile --only-binary :all: --require-hashes -r requirements-image.txt \
 && /venv/bin/pip uninstall --yes --quiet pip setuptools \
 && find /venv -type d -name tests -prune -exec rm -r {} +
# Bytecode of what is imported and of nothing else: without it a start takes twice as long, with all of it the image is
# a third larger.
COPY transformer.py .
COPY serving serving
COPY scripts/failure.py scripts/
COPY scripts/model scripts/model
RUN /venv/bin/python transformer.py --help >/dev/null

FROM ${BASE_IMAGE}
COPY --from=builder /venv /venv
COPY --from=builder /app/transformer.py /app/
COPY --from=builder /app/serving /app/serving
COPY --from=builder /app/scripts /app/scripts
# A number, because Kubernetes checks runAsNonRoot by it.
USER 1000
EXPOSE 8080 8081
# In a pod, others are to ask it; what KServe adds are further arguments.
ENTRYPOINT ["/venv/bin/python", "/app/transformer.py", "--host", "0.0.0.0"]
