#!/usr/bin/env bash
# Draws a city, packs it, trains, ranks, reports and checks: full.sh BIN WORK, from the root of the repository.
set -euo pipefail
SECONDS=0
bin=$1 work=$2
rm -rf "$work" && mkdir -p "$work"
"$bin/python" -m examples.street.city "$work/train" --seed 11 --panoramas 2000
"$bin/python" -m examples.street.city "$work/test" --seed 12 --panoramas 1500
for part in train test; do
    "$bin/pcace" pack "$work/$part/stations.csv" "$work/$part-shards" --image-column path --shard-rows 1000
done
"$bin/python" -m examples.street.train "$work/train-shards" --test "$work/test-shards" --out "$work/weights.safetensors"
"$bin/pcace" rank examples/street/job.yaml --top 3 --set dataset.path="$work/test-shards" \
    --set model.weights="$work/weights.safetensors" --set output="$work/run"
"$bin/pcace" report "$work/run"
"$bin/python" -m examples.street.truth "$work/run"
"$bin/pcace" evaluate "$work/run" --layer conv3 --watch output:0
"$bin/python" -m examples.street.truth --planted 10 --out "$work"
"$bin/python" -m examples.street.figures "$work/run" "$work/figures" --planted "$work/planted.json"
echo "make street-full: $SECONDS s; figures in $work/figures, the report is $work/run/report.html"
