#!/bin/sh
# Least rights for each role of Tidegate on a Kafka with an authorizer. Adding a right twice does nothing, so it may run again.
#
#   BROKERS=host:9093 COMMAND_CONFIG=admin.properties GATEWAYS="gw-1 gw-2" ./acls.sh
#
# Topics and groups have the names of Tidegate's defaults; each can be set, and PATTERN=prefixed takes them as prefixes.
# Every gateway is a user of its own, gateway-<id>, so that none reads what is for another.
set -eu

: "${BROKERS:?host:port of a broker}"
: "${COMMAND_CONFIG:?properties of a client that may alter ACLs}"
KAFKA_ACLS=${KAFKA_ACLS:-kafka-acls.sh}
PATTERN=${PATTERN:-literal}
GATEWAYS=${GATEWAYS:-}

OPERATOR=${OPERATOR:-operator}
API=${API:-api}
LOGIC=${LOGIC:-logic}
TASK=${TASK:-task}

UPSTREAM_TOPIC=${UPSTREAM_TOPIC:-im-upstream-topic}
DOWNSTREAM_TOPIC=${DOWNSTREAM_TOPIC:-im-downstream-topic-}
TASK_TOPIC=${TASK_TOPIC:-im-task-topic}
USER_STATE_TOPIC=${USER_STATE_TOPIC:-user_state}
DEAD_LETTER_TOPIC=${DEAD_LETTER_TOPIC:-dead-letter-topic}
HISTORY_TOPIC=${HISTORY_TOPIC:-message-history}

LOGIC_GROUP=${LOGIC_GROUP:-im-logic-group}
TASK_GROUP=${TASK_GROUP:-im-task-group}
PUSH_GROUP=${PUSH_GROUP:-push-group}

# allow USER PATTERN RESOURCE... -- OPERATION...
allow() {
    user=$1 pattern=$2
    shift 2
    set -- "$@" --end
    resources='' operations='' half=resources
    while [ "$1" != --end ]; do
        case "$1:$half" in
        --:resources) half=operations ;;
        *:resources) resources="$resources $1" ;;
        *) operations="$operations --operation $1" ;;
        esac
        shift
    done
    # Names of topics and groups hold no blanks, so these may be split.
    # shellcheck disable=SC2086
    "$KAFKA_ACLS" --bootstrap-server "$BROKERS" --command-config "$COMMAND_CONFIG" --add \
        --allow-principal "User:$user" --resource-pattern-type "$pattern" $resources $operations >/dev/null
}

# api: what clients and backends send goes to the sequencers, and nowhere else; what the store has no more is read from the
# history.
allow "$API" "$PATTERN" "--topic=$UPSTREAM_TOPIC" -- Write
allow "$API" "$PATTERN" "--topic=$HISTORY_TOPIC" -- Read

# logic: sequences the upstream (and puts there what stood in the wrong place), keeps the history (and reads it where a stream
# missed something), orders tasks, tells who comes and goes, delivers.
allow "$LOGIC" "$PATTERN" "--topic=$UPSTREAM_TOPIC" "--group=$LOGIC_GROUP" -- Read
allow "$LOGIC" "$PATTERN" "--topic=$UPSTREAM_TOPIC" -- Write
allow "$LOGIC" "$PATTERN" "--topic=$HISTORY_TOPIC" -- Read Write
allow "$LOGIC" "$PATTERN" "--topic=$TASK_TOPIC" "--topic=$USER_STATE_TOPIC" "--topic=$DEAD_LETTER_TOPIC" -- Write
allow "$LOGIC" prefixed "--topic=$DOWNSTREAM_TOPIC" -- Write

# task: works off tasks and hears who comes and goes; a message of an outside producer goes upstream, a fan-out makes tasks.
allow "$TASK" "$PATTERN" "--topic=$TASK_TOPIC" "--group=$TASK_GROUP" "--topic=$USER_STATE_TOPIC" "--group=$PUSH_GROUP" -- Read
allow "$TASK" "$PATTERN" "--topic=$UPSTREAM_TOPIC" "--topic=$TASK_TOPIC" "--topic=$DEAD_LETTER_TOPIC" -- Write

# gateways: each reads its own downstream.
for gateway in $GATEWAYS; do
    allow "gateway-$gateway" literal "--topic=$DOWNSTREAM_TOPIC$gateway" "--group=gateway-$gateway-group" -- Read
    # Only where gateways produce to the upstream themselves.
    if [ "${GATEWAYS_WRITE_UPSTREAM:-no}" = yes ]; then
        allow "gateway-$gateway" "$PATTERN" "--topic=$UPSTREAM_TOPIC" -- Write
    fi
done

# operator: creates and grows topics, lists and replays dead letters, resets offsets, sees lag. Committing an offset takes the
# right to read.
allow "$OPERATOR" "$PATTERN" "--topic=$UPSTREAM_TOPIC" "--topic=$TASK_TOPIC" "--topic=$USER_STATE_TOPIC" \
    "--topic=$DEAD_LETTER_TOPIC" "--topic=$HISTORY_TOPIC" -- Create Alter Delete DescribeConfigs Read Write
allow "$OPERATOR" prefixed "--topic=$DOWNSTREAM_TOPIC" -- Create Alter Delete DescribeConfigs Read
allow "$OPERATOR" "$PATTERN" "--group=$LOGIC_GROUP" "--group=$TASK_GROUP" "--group=$PUSH_GROUP" -- Read
