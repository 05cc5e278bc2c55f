// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/internal/provider"
)

// frame is one event, encoded once for all its readers.
type frame struct {
	seq     uint64
	attempt int32
	part    bool
	data    []byte
}

// frameOverhead is what a frame costs beside its bytes: the struct, and the
// growth of the slice that holds it.
const frameOverhead = 64

func (f *frame) cost() int { return len(f.data) + frameOverhead }

// cursor is the id of a frame: <epoch>-<attempt>-<seq>. The sequence number
// counts the frames of one log from 1, over all its attempts.
type cursor struct {
	epoch   string
	attempt int32
	seq     uint64
}

// nowhere is the sequence number of frames that stand in no log, since they
// were made for one reader. Who comes back with it is answered anew.
const nowhere = 0

// epochLen gives 50 random bits: two logs of one run never share an epoch.
const epochLen = 10

func newEpoch() string { return rand.Text()[:epochLen] }

// appendTo appends the cursor's text.
func (c cursor) appendTo(b []byte) []byte {
	b = append(append(b, c.epoch...), '-')
	b = append(strconv.AppendInt(b, int64(c.attempt), 10), '-')
	return strconv.AppendUint(b, c.seq, 10)
}

func (c cursor) String() string { return string(c.appendTo(nil)) }

// parseCursor reads the text of a cursor, and reports false for anything that
// String would not have written.
func parseCursor(s string) (cursor, bool) {
	epoch, rest, _ := strings.Cut(s, "-")
	first, second, _ := strings.Cut(rest, "-")
	attempt, err := strconv.ParseInt(first, 10, 32)
	if err != nil || len(epoch) != epochLen {
		return cursor{}, false
	}
	seq, err := strconv.ParseUint(second, 10, 64)
	if err != nil {
		return cursor{}, false
	}
	c := cursor{epoch, int32(attempt), seq}
	if c.String() != s {
		return cursor{}, false // a second spelling, as of 7 by 07
	}
	return c, true
}

// endID is the id of the terminal frame of a run.
func endID(uid string) string { return "end-" + uid }

// encode returns data as one line of JSON. Its types are those of api/stream
// alone, which cannot fail to encode. Characters that only HTML minds stay
// readable for whoever looks at the stream with curl.
func encode(data any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(data); err != nil {
		panic(fmt.Sprintf("encoding %T: %v", data, err))
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// encodePart is encode for a part, of which there are more than of all else together.
func encodePart(kind provider.PartKind, text string) []byte {
	if text == "" || !verbatim(text) {
		return encode(messagePart(kind, text))
	}
	begin := `{"role":"assistant","text":"`
	if kind == provider.Reasoning {
		begin = `{"role":"assistant","reasoning":"`
	}
	b := make([]byte, 0, len(begin)+len(text)+len(`"}`))
	return append(append(append(b, begin...), text...), `"}`...)
}

// verbatim reports whether JSON has a text as it is.
func verbatim(text string) bool {
	ascii := true
	for i := range len(text) {
		switch c := text[i]; {
		case c < ' ', c == '"', c == '\\':
			return false
		case c >= utf8.RuneSelf:
			ascii = false
		}
	}
	// encoding/json escapes the two line ends that JavaScript had trouble with.
	return ascii || utf8.ValidString(text) && !strings.ContainsAny(text, "\u2028\u2029")
}

// fieldsLen is the size of a frame without id, event and data.
const fieldsLen = len("id: \nevent: \ndata: \n\n")

// cursorLen is the longest text of a cursor: its epoch, an int32 and a uint64.
const cursorLen = epochLen + len("--2147483647-18446744073709551615")

// event returns the frame of an event with a cursor for id.
func event(at cursor, what stream.Name, data []byte) []byte {
	var id [cursorLen]byte
	return eventWithID(at.appendTo(id[:0]), what, data)
}

func eventWithID(id []byte, what stream.Name, data []byte) []byte {
	b := make([]byte, 0, fieldsLen+len(id)+len(what)+len(data))
	b = append(append(b, "id: "...), id...)
	b = append(append(b, "\nevent: "...), what...)
	b = append(append(b, "\ndata: "...), data...)
	return append(b, "\n\n"...)
}

// unplaced returns the frame of an event that has no id: the reader's place is
// the one it had.
func unplaced(what stream.Name, data []byte) []byte {
	return fmt.Appendf(nil, "event: %s\ndata: %s\n\n", what, data)
}
