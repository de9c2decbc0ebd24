# Both commands of README, on a processor: docker build -t charlm . && docker run charlm
FROM python:3.11-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/*
# PyTorch's build without CUDA; leave this out for a GPU.
ENV UV_TORCH_BACKEND=cpu
WORKDIR /charlm
COPY . .
RUN make setup
CMD ["make", "repro", "test"]
