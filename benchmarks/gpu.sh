#!/usr/bin/env bash
# All gates of one GPU with SD 2.1's size, most telling first; meant for 80 GB and a quarter of an hour.
# Groups are processes of their own, so that one that fails or is cut off leaves the others. P16 is four images and two
# pairs, not 640 and 320: its rival trains at batch 1 and would take half an hour and more.
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
failed=0
for gates in P1,P2,P3,P4,P5,P6 P7,P8,P9,P10,P15 P16 P11,P12,P13,P14; do
    python -m benchmarks --model sd21 --device cuda --gates "$gates" \
        --out "results/benchmarks/sd21-cuda-${gates%%,*}.json" "$@" || failed=1
done
exit $failed
