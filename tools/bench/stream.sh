#!/usr/bin/env bash
# The comparison of methods in BENCHMARKS.md: eight domains, all methods, three seeds.
# Usage: tools/bench/stream.sh CORPUS_STREAM MODEL_DIR OUT_DIR [FLAGS OF sapwood stream]
#   CORPUS_STREAM: a folder with one folder a domain (train.txt, test.txt), named as below.
set -euo pipefail
corpus=$1 model=$2 out=$3
domains=(clinical_notes recipes math_gsm8k legal_policies voice_assistant_nlu
    aviation_maintenance code_c_firmware logs_mobile_device)
cargo run --release -- stream --model "$model" --out "$out" --seeds 3 \
    --iters 50 --batch-size 4 --replay-batch-size 4 --max-seq-length 128 --num-layers 4 \
    --target-modules q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj \
    --learning-rate 5e-3 --lr-schedule cosine --retain 0.95 --replay-blocks 200 \
    --eval-blocks 16 "${@:4}" "${domains[@]/#/$corpus/}"
