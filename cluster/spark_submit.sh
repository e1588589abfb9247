#!/usr/bin/env bash
# Run the ETL as a Spark job on local[*], Spark standalone, YARN or Kubernetes.
#
#   cluster/spark_submit.sh [OPTION of spark-submit ... --] CONFIG [KEY=VALUE ...]
#
#   cluster/spark_submit.sh --master spark://HEAD:7077 --executor-memory 4g -- CONFIG
#   cluster/spark_submit.sh --master yarn --num-executors 8 -- CONFIG root=hdfs://HEAD/mdsrec
#
# Python is the first that is set of PYSPARK_DRIVER_PYTHON and PYSPARK_PYTHON, or python3.
# Spark is that of SPARK_HOME, or of that Python's pyspark.
set -euo pipefail

options=()
if [[ ${1:-} == -* ]]; then
    while [[ $# -gt 0 && $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift $(($# > 0))
fi
if [[ $# -eq 0 ]]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
fi

ours=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYSPARK_DRIVER_PYTHON:-${PYSPARK_PYTHON:-python3}}
export PYTHONSAFEPATH=1  # a folder etl/ here is not ours
module() {
    PYTHONPATH=$ours "$python" -m "$@"
}

folder=$(mktemp -d)
module mdsrec.packages "$folder/mdsrec.zip"
module etl.spark.log "$folder/log4j2.properties"
JAVA_HOME=$(module etl.spark.java)
export JAVA_HOME
export SPARK_HOME=${SPARK_HOME:-$("$python" -c 'import pyspark; print(*pyspark.__path__)')}
export SPARK_SUBMIT_OPTS="-Dlog4j2.configurationFile=$folder/log4j2.properties ${SPARK_SUBMIT_OPTS:-}"

exec "$SPARK_HOME/bin/spark-submit" --name "mdsrec etl" --py-files "$folder/mdsrec.zip" \
    "${options[@]}" "$ours/etl/__main__.py" "$@"
