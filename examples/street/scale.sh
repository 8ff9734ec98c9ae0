#!/usr/bin/env bash
# A large city through the service: scale.sh BIN WORK ROWS, from the root of the repository.
set -euo pipefail
SECONDS=0
bin=$1 work=$2 rows=$3
watched() { "$bin/python" -m examples.street.watched --out "$work/$1.json" "${@:2}"; }
rm -rf "$work" && mkdir -p "$work"
watched draw "$bin/python" -m examples.street.scale "$work" --rows "$rows"
watched pack "$bin/pcace" pack "$work/stations.csv" "$work/shards" --image-column path --shard-rows 100000 --workers 2
watched rank "$bin/pcace" rank examples/street/job.yaml --top 1 --set dataset.path="$work/shards" --set dataset.fold_by=scene \
    --set model.weights=examples/street/weights-32.safetensors --set output="$work/run"
watched report "$bin/pcace" report "$work/run" --groups Northgate,Harbour
watched truth "$bin/python" -m examples.street.truth "$work/run"
du -sh "$work/stations.csv" "$work/images" "$work/shards" "$work/run"
echo "make street-scale: $SECONDS s; the report is $work/run/report.html"
