# Sourced by every script below this folder: where things lie, and the command lines that all tasks share.
# From the environment: MODEL, a name in config/ or a path; OUT, where runs are written; TASKS, the task file; WEIGHTS,
# what to start from or to test, a model's folder or other weights; PROCESSES, how many share a training run (one a GPU);
# PYTHON, the interpreter.
# With --world among its flags, a script trains, or tests what it trained, on a small synthetic world, below runs/world.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
NAMED=${MODEL:+yes}
MODEL=${MODEL:-switchbert}
NAME=$(basename "${MODEL%.json}")
OUT=${OUT:-checkpoints}
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python)}  # of `make setup`, or the shell's
PROCESSES=${PROCESSES:-1}

# on_world [flags]: whether --world is among them. It brings data, weights, folders and a batch size of its own, so that
# those of a real run are left out.
on_world() {
  [[ " $* " == *" --world "* ]]
}

# train SCRIPT [flags]: in one process, or in several that torchrun starts.
train() {
  local launcher=()
  if [ "$PROCESSES" -gt 1 ]; then
    launcher=(-m torch.distributed.run --standalone --nproc_per_node "$PROCESSES")
  fi
  "$PYTHON" ${launcher[@]+"${launcher[@]}"} "$@"
}

# model START: sets MODEL_FLAGS to what is said of the model. A folder says it itself; it is named where there is none, and
# beside WEIGHTS if MODEL is given, too.
model() {
  MODEL_FLAGS=(--from_pretrained "$1")
  if [ ! -f "$1/config.json" ] || [[ -n "${WEIGHTS-}" && -n "$NAMED" ]]; then
    MODEL_FLAGS+=(--config_file "$MODEL")
  fi
}

# fine_tune FOLDER TASK [flags]: from the pre-trained model, with the hyperparameters of VOLTA's controlled set-up.
fine_tune() {
  local folder=$1 task=$2
  shift 2
  model "${WEIGHTS-$OUT/concap/$NAME}"
  local real=(
    "${MODEL_FLAGS[@]}" --tasks_config_file "${TASKS:-config_tasks/ctrl_trainval_tasks.yml}"
    --output_dir "$OUT/$folder" --logdir "logs/$folder" --resume
  )
  if on_world "$@"; then real=(--config_file "$MODEL"); fi
  train train_task.py --task "$task" \
    --adam_epsilon 1e-6 --adam_betas 0.9 0.999 --weight_decay 0.0001 --warmup_proportion 0.1 --clip_grad_norm 1.0 \
    "${real[@]}" "$@"
}

# evaluate SCRIPT FOLDER TASK [flags]: the model that fine_tune FOLDER TASK left, or TESTED, on the split "test".
evaluate() {
  local script=$1 folder=$2 task=$3
  shift 3
  model "${WEIGHTS:-${TESTED:-$OUT/$folder/${task}_$NAME}}"
  local real=(
    "${MODEL_FLAGS[@]}" --tasks_config_file "${TASKS:-config_tasks/ctrl_test_tasks.yml}" --output_dir "results/$folder"
  )
  if on_world "$@"; then real=(--config_file "$MODEL"); fi
  "$PYTHON" "$script" --task "$task" --split test "${real[@]}" "$@"
}
