#!/bin/sh
# Throughput and latency of `vqnmt serve` under wrk (Debian: apt-get install wrk), with and without
# batches, on this machine: 64 connections on loopback, each sending one sentence after the other.
# The last run lets 8 sentences wait and shows that the rest is refused with 429.
#
# sh scripts/benchmark_server.sh [SECONDS] [MODEL]
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-20} model=${2:-pretrained/en-de} port=5078
folder=$(mktemp -d)
server=
trap 'kill $server 2>/dev/null || true; rm -rf "$folder"' EXIT

cat >"$folder/post.lua" <<'LUA'
local words = {"the", "light", "kitchen", "is", "on", "device", "failed", "update", "door", "open"}
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
function request()
  local text = {}
  for i = 1, math.random(3, 12) do text[i] = words[math.random(#words)] end
  local body = '{"q":"' .. table.concat(text, " ") .. '","source":"en","target":"de"}'
  return wrk.format(nil, "/translate", nil, body)
end
LUA

measure() {
    name=$1
    shift
    : >"$folder/log"
    .venv/bin/python -m vqnmt serve --model "$model" --port $port "$@" 2>"$folder/log" &
    server=$!
    until grep -q "running on" "$folder/log"; do
        kill -0 $server || { cat "$folder/log"; exit 1; }
        sleep 0.2
    done
    echo "== $name"
    wrk -t2 -c64 -d"$seconds"s --timeout 30s --latency -s "$folder/post.lua" \
        "http://127.0.0.1:$port" | grep -E "50%|99%|Requests/sec|requests in|Non-2xx|Socket"
    grep VmRSS "/proc/$server/status"
    .venv/bin/python - $port <<'PYTHON'
import sys, urllib.request
url = f"http://127.0.0.1:{sys.argv[1]}/metrics"
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
for line in opener.open(url).read().decode().splitlines():
    if line.startswith('vqnmt_requests_total{path="/translate"'):
        print(line)
PYTHON
    kill $server
    wait $server 2>/dev/null || true
}

measure "batches"
measure "no batches" --batch 1 --batch-wait 0
measure "a queue of 8" --queue 8
