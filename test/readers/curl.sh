#!/bin/sh
# Copyright The ChatRun Authors.
# SPDX-License-Identifier: Apache-2.0

# Reads a run's stream to its end with curl alone, through cut connections, and
# prints each frame once it is whole:
#
#	curl.sh URL [CURL-OPTION…]
set -u
url=$1
shift
state=$(mktemp -d) || exit 1
trap 'rm -rf "$state"' EXIT
trap 'exit 1' INT TERM
: >"$state/id"

# whole prints the frames that came whole, and notes the last one's id.
whole() {
	frame= id= event=
	while IFS= read -r line; do
		case $line in
		'')
			[ -z "$frame" ] || printf '%s\n' "$frame"
			[ -z "$id" ] || echo "$id" >"$state/id"
			[ "$event" != done ] || : >"$state/done"
			frame= id= event=
			continue
			;;
		'id: '*) id=${line#id: } ;;
		'event: '*) event=${line#event: } ;;
		esac
		frame="$frame$line
"
	done
}

while [ ! -e "$state/done" ]; do
	id=$(cat "$state/id")
	{
		curl -sS -N --fail "$@" ${id:+-H "Last-Event-ID: $id"} "$url"
		echo $? >"$state/code"
	} | whole
	code=$(cat "$state/code")
	case $code in
	# Ended, refused to connect, HTTP/2 broken, partial, timed out, TLS broken, empty,
	# not sent, not received, HTTP/2 stream broken: the rest may be had.
	0 | 7 | 16 | 18 | 28 | 35 | 52 | 55 | 56 | 92) [ -e "$state/done" ] || sleep 1 ;;
	# 22 is a refusal, and the others are no better.
	*) exit "$code" ;;
	esac
done
