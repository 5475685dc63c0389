# Two images. That of the InferenceService's transformer and recorder:
#   docker build -t sklearn-transformer --target transformer -f transformer.Dockerfile .
# and that of retrain.py, which needs kubectl in the folder:
#   cp "$(command -v kubectl)" . && docker build -t retraining --target retraining -f transformer.Dockerfile .
# The base image is that of KServe's predictor (python/sklearn.Dockerfile), so that both unpickle with the same Python.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS builder
WORKDIR /app
COPY scripts/requirements-image.txt .
# KServe requires psutil 5.9, which has no wheel for arm64 and is compiled there.
RUN [ "$(uname -m)" = x86_64 ] || { apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev; }
# The libraries' own tests are a fifth of the installed files.
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --no-compile --prefer-binary --require-hashes -r requirements-image.txt \
 && /venv/bin/pip uninstall --yes --quiet pip setuptools \
 && find /venv -type d -name tests -prune -exec rm -r {} +
# Compiles only the imported modules: without bytecode a start takes twice as long, with bytecode for everything the
# image is a third larger.
COPY transformer.py .
COPY recorder.py .
COPY serving serving
COPY scripts/command_line.py scripts/failure.py scripts/
COPY scripts/model scripts/model
RUN /venv/bin/python transformer.py --help >/dev/null && /venv/bin/python recorder.py --help >/dev/null

FROM ${BASE_IMAGE} AS transformer
COPY --from=builder /venv /venv
COPY --from=builder /app/transformer.py /app/recorder.py /app/
COPY --from=builder /app/serving /app/serving
COPY --from=builder /app/scripts /app/scripts
# A numeric user, because Kubernetes cannot check runAsNonRoot by name.
USER 1000
EXPOSE 8080 8081
# Clients of a pod are outside it. KServe appends its own arguments.
ENTRYPOINT ["/venv/bin/python", "/app/transformer.py", "--host", "::"]

FROM ${BASE_IMAGE} AS retraining-builder
WORKDIR /app
COPY scripts/requirements.txt scripts/
RUN python -m venv /venv \
 && /venv/bin/pip install --no-cache-dir --no-compile --prefer-binary -r scripts/requirements.txt \
 && /venv/bin/pip uninstall --yes --quiet pip setuptools \
 && find /venv -type d -name tests -prune -exec rm -r {} +
COPY scripts/command_line.py scripts/failure.py scripts/prometheus.py scripts/
COPY scripts/deploy_service.py scripts/retrain.py scripts/text_clustering.py scripts/
COPY scripts/assignment scripts/assignment
COPY scripts/corpus scripts/corpus
COPY scripts/deployment scripts/deployment
COPY scripts/model scripts/model
COPY scripts/retraining scripts/retraining
COPY scripts/store scripts/store
COPY scripts/training scripts/training
RUN for program in retrain text_clustering; do /venv/bin/python scripts/$program.py --help >/dev/null; done

FROM ${BASE_IMAGE} AS retraining
COPY --from=retraining-builder /venv /venv
COPY --from=retraining-builder /app /app
COPY kubectl /usr/local/bin/kubectl
ENV KUBECONFIG=/app/scripts/retraining/kubeconfig.yaml
USER 1000
ENTRYPOINT ["/venv/bin/python", "/app/scripts/retrain.py"]

# What a build without --target makes.
FROM transformer
