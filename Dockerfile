# gpt4image with everything a user needs. For GPUs: --build-arg BASE=nvidia/cuda:12.8.1-runtime-ubuntu24.04
#
#     docker build -t gpt4image .
#     docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" gpt4image doctor
ARG BASE=ubuntu:24.04
FROM ${BASE}

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

COPY . /usr/src/gpt4image

# the versions of the lock, without the tools of developers
RUN python3 -m venv /opt/gpt4image \
    && /opt/gpt4image/bin/pip install --no-cache-dir "uv==0.13.9" \
    && /opt/gpt4image/bin/uv pip install --no-cache --python /opt/gpt4image/bin/python \
        --constraint /usr/src/gpt4image/requirements.lock "/usr/src/gpt4image[clip,demo,onnx,track]"

ENV PATH="/opt/gpt4image/bin:${PATH}" OMP_WAIT_POLICY=PASSIVE HOME=/home/user USER=user
# whoever owns /work and is named by --user keeps his caches there too
RUN useradd --create-home --uid 1001 user && chmod 0777 /home/user
USER 1001
WORKDIR /work
ENTRYPOINT ["gpt4image"]
CMD ["--help"]
