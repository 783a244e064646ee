# `vqnmt serve` with the light runtime (no PyTorch) and the shipped model, as a user without rights:
#   docker build -t vqnmt . && docker run --rm -p 127.0.0.1:5000:5000 vqnmt
# Another exported model: docker run -v DIR:/model:ro ... vqnmt --model /model
FROM python:3.13-slim
WORKDIR /src
COPY setup.py pyproject.toml requirements.lock README.md LICENSE ./
COPY vqnmt vqnmt
COPY configs configs
COPY pretrained pretrained
RUN pip install --no-cache-dir --no-compile -c requirements.lock ".[serve]" \
    && rm -rf /src/* && useradd --no-create-home server
USER server
EXPOSE 5000
ENTRYPOINT ["vqnmt", "serve", "--host", "0.0.0.0"]
