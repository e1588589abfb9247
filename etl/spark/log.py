"""The log4j rules of Spark: errors of its JVM, and whether it is still waiting for a cluster.

`python -m etl.spark.log FILE` writes them to FILE.
"""

import sys
from pathlib import Path

# A failed task is raised as an exception, so its copy in the log is switched off, as are traces.
LOG4J = """
rootLogger.level = error
rootLogger.appenderRef.stderr.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss} spark: %m%n
appender.console.layout.alwaysWriteExceptions = false
logger.1.name = org.apache.spark.executor
logger.1.level = off
logger.2.name = org.apache.spark.scheduler.TaskSetManager
logger.2.level = off
logger.3.name = org.apache.spark.sql.execution
logger.3.level = off
logger.4.name = org.apache.spark.util.Utils
logger.4.level = off
logger.5.name = org.apache.spark.api.python.PythonGatewayServer
logger.5.level = error
logger.6.name = org.apache.spark.scheduler.TaskSchedulerImpl
logger.6.level = warn
logger.7.name = org.apache.spark.deploy
logger.7.level = info
"""


def write_log_rules(file: Path) -> Path:
    """Write LOG4J to `file` and return `file`."""
    file.write_text(LOG4J)
    return file


if __name__ == "__main__":
    write_log_rules(Path(sys.argv[1]))
