#!/usr/bin/env bash
# The comparison of methods in BENCHMARKS.md: the domains of a stream, all methods, three seeds.
# Usage: tools/bench/stream.sh [--stream NAME] CORPUS MODEL_DIR OUT_DIR [FLAGS OF sapwood stream]
#   NAME: eight (default), reversed (the eight backwards), twentyfour, twice (the 24, then the 24 again),
#     drift or dissimilar; streams/order has the domains of each.
#   CORPUS: a folder with one folder a domain (train.txt, test.txt), or several with colons between;
#     a domain is taken from the first that has it.
set -euo pipefail
order=$(dirname "$0")/streams/order stream=eight
if [[ ${1-} == --stream ]]; then
    stream=${2?expected the name of a stream} && shift 2
fi
if (($# < 3)); then
    sed -n '2,/^set/{s/^# \{0,1\}//p}' "$0" >&2
    exit 2
fi
corpus=$1 model=$2 out=$3
case $stream in
eight | twentyfour | drift | dissimilar) mapfile -t domains <"$order/$stream.txt" ;;
reversed) mapfile -t domains < <(tac "$order/eight.txt") ;;
twice) mapfile -t domains < <(cat "$order"/twentyfour.txt{,}) ;;
*) echo "unknown stream $stream: expected eight, reversed, twentyfour, twice, drift or dissimilar" >&2 && exit 2 ;;
esac
IFS=: read -ra folders <<<"$corpus"
paths=()
for domain in "${domains[@]}"; do
    for folder in "${folders[@]}"; do
        [[ -d $folder/$domain ]] && paths+=("$folder/$domain") && continue 2
    done
    echo "no folder of $corpus has the domain $domain" >&2 && exit 1
done
cargo run --release -- stream --model "$model" --out "$out" --seeds 3 \
    --iters 50 --batch-size 3 --replay-batch-size 5 --max-seq-length 128 --num-layers 4 \
    --target-modules q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj \
    --rank 32 --alpha 64 --learning-rate 5.2e-3 --retain 0.933 --anchor-blocks 512 --whitening 30 \
    --eval-blocks 16 "${@:4}" "${paths[@]}"
