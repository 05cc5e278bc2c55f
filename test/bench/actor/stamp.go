// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package actor

import (
	"bytes"
	"fmt"
	"strconv"
	"time"

	"chatrun.dev/operator/test/bench/meter"
)

// A stamp is a mark and the time, of the clock that all processes of a machine share,
// at which a part was sent. Neither SSE nor JSON changes a character of it, so it is
// found in the bytes of any form, and nothing need be decoded.
const (
	stampMark   = '~'
	stampDigits = 19
	stampLen    = 1 + stampDigits
)

// stamp is one of now.
func stamp() string {
	return fmt.Sprintf("%c%0*d", stampMark, stampDigits, meter.Monotonic().Nanoseconds())
}

// stamps finds the stamps in bytes that come piece by piece, in any pieces.
type stamps struct{ rest []byte }

// next hands over each stamp whose last byte is here.
func (s *stamps) next(piece []byte, each func(sent time.Duration)) {
	if len(s.rest) > 0 {
		// What is missing of the stamp that was cut.
		n := min(stampLen-len(s.rest), len(piece))
		s.rest = append(s.rest, piece[:n]...)
		piece = piece[n:]
		if len(s.rest) < stampLen {
			return
		}
		read(s.rest, each)
		s.rest = s.rest[:0]
	}
	for {
		i := bytes.IndexByte(piece, stampMark)
		if i < 0 {
			return
		}
		piece = piece[i:]
		if len(piece) < stampLen {
			s.rest = append(s.rest, piece...)
			return
		}
		read(piece[:stampLen], each)
		piece = piece[stampLen:]
	}
}

func read(stamp []byte, each func(time.Duration)) {
	if nanos, err := strconv.ParseInt(string(stamp[1:]), 10, 64); err == nil {
		each(time.Duration(nanos))
	}
}
