// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package provider

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// split returns all events of a body as "name|data", and what was left.
func split(body io.Reader) (events []string, rest string, err error) {
	r := newEventReader(body)
	for {
		e, err := r.next()
		if err != nil {
			return events, string(r.rest()), err
		}
		events = append(events, string(e.name)+"|"+string(e.data))
	}
}

func TestFraming(t *testing.T) {
	tests := []struct {
		name, body string
		want       []string
		rest       string
	}{
		{"empty", "", nil, ""},
		{"one", "data: a\n\n", []string{"|a"}, ""},
		{"named", "event: x\ndata: a\n\ndata: b\n\n", []string{"x|a", "|b"}, ""},
		{"last name counts", "event: x\nevent: y\ndata: a\n\n", []string{"y|a"}, ""},
		{"no space", "data:a\n\n", []string{"|a"}, ""},
		{"one space is cut", "data:  a \n\n", []string{"| a "}, ""},
		{"lines are joined", "data: a\ndata\ndata: b\n\n", []string{"|a\n\nb"}, ""},
		{"empty data", "data:\n\n", []string{"|"}, ""},
		{"no data, no event", "event: x\n\nid: 1\nretry: 5\n\ndata: a\n\n", []string{"|a"}, ""},
		{"CRLF", "event: x\r\ndata: a\r\n\r\ndata: b\r\n\r\n", []string{"x|a", "|b"}, ""},
		{"CR", "event: x\rdata: a\r\rdata: b\r\r", []string{"x|a", "|b"}, ""},
		{"mixed", "data: a\r\n\ndata: b\r\r\ndata: c\n\r\ndata: d\n\r", []string{"|a", "|b", "|c", "|d"}, ""},
		{"comments", ": hi\n\n:\ndata: a\n: there\n\n", []string{"|a"}, ""},
		{"mark", "\xef\xbb\xbfdata: a\n\n", []string{"|a"}, ""},
		{"mark in the middle", "data: a\n\n\xef\xbb\xbfdata: b\n\n", []string{"|a"}, ""},
		{"unknown fields", "foo: bar\ndata: a\nDATA: b\n data: c\n\n", []string{"|a"}, ""},
		{"colons", "data: a:b: c\n\n", []string{"|a:b: c"}, ""},
		{"no empty line", "data: a\n\ndata: b\n", []string{"|a"}, "b"},
		{"no line end", "data: a\n\ndata: b\ndata: c", []string{"|a"}, "b\nc"},
		{"cut field", "data: a\n\nda", []string{"|a"}, ""},
		{"a page", "<html>\n<body>\n\n</body>", nil, ""},
		{"characters", "data: Grüße 🎈\n\n", []string{"|Grüße 🎈"}, ""},
	}
	readers := map[string]func(io.Reader) io.Reader{
		"whole":     func(r io.Reader) io.Reader { return r },
		"bytes":     iotest.OneByteReader,
		"halves":    iotest.HalfReader,
		"data, EOF": iotest.DataErrReader,
	}
	for _, test := range tests {
		for kind, reader := range readers {
			t.Run(test.name+"/"+kind, func(t *testing.T) {
				got, rest, err := split(reader(strings.NewReader(test.body)))
				if !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
				if !slices.Equal(got, test.want) || rest != test.rest {
					t.Errorf("got %q, rest %q; want %q, rest %q", got, rest, test.want, test.rest)
				}
			})
		}
	}
}

// An event is there as soon as its empty line is: nothing waits for the next.
func TestFramingDoesNotWait(t *testing.T) {
	for _, body := range []string{"data: a\n\n", "data: a\r\n\r\n", "data: a\r\r"} {
		stop := errors.New("read on")
		r := newEventReader(io.MultiReader(strings.NewReader(body), failing{stop}))
		e, err := r.next()
		if err != nil || string(e.data) != "a" {
			t.Errorf("%q: %q, %v", body, e.data, err)
		}
		if _, err := r.next(); !errors.Is(err, stop) {
			t.Errorf("%q: then %v", body, err)
		}
	}
}

func TestFramingBounds(t *testing.T) {
	long := strings.Repeat("x", maxEvent-len("data: \n")-1)
	if got, _, err := split(strings.NewReader("data: " + long + "\n\ndata: b\n\n")); len(got) != 2 || !errors.Is(err, io.EOF) {
		t.Errorf("longest line: %d events, %v", len(got), err)
	}
	if _, _, err := split(strings.NewReader("data: xxxxxxxx" + long + "\n\n")); !errors.Is(err, errEventTooLong) {
		t.Errorf("longer line: %v", err)
	}
	half := "data: " + long[:maxEvent/2] + "\n"
	if _, _, err := split(strings.NewReader(half + half + half + "\n")); !errors.Is(err, errEventTooLong) {
		t.Errorf("longer event: %v", err)
	}
	if _, _, err := split(silent{}); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("no progress: %v", err)
	}
}

// silent is a reader that brings nothing, for ever.
type silent struct{}

func (silent) Read([]byte) (int, error) { return 0, nil }

// Where a body is cut into reads makes no difference.
func FuzzFraming(f *testing.F) {
	for _, seed := range []string{
		openAIGood, anthropicGood, "\xef\xbb\xbfdata: a\r\n\r\n", "event:x\rdata\r\rdata:b\n\r\n", ": c\n\ndata: a\ndata: b\n\n",
	} {
		f.Add([]byte(seed), uint16(3))
	}
	f.Fuzz(func(t *testing.T, body []byte, size uint16) {
		want, wantRest, _ := split(bytes.NewReader(body))
		got, rest, err := split(chunked{bytes.NewReader(body), int(size%512) + 1})
		if !errors.Is(err, io.EOF) || !slices.Equal(got, want) || rest != wantRest {
			t.Errorf("in pieces of %d: %q rest %q %v; whole: %q rest %q", size%512+1, got, rest, err, want, wantRest)
		}
	})
}

// chunked reads at most size bytes at once.
type chunked struct {
	r    io.Reader
	size int
}

func (c chunked) Read(p []byte) (int, error) { return c.r.Read(p[:min(len(p), c.size)]) }

func fuzzDecoder(f *testing.F, kind Type, seeds ...string) {
	for _, seed := range seeds {
		f.Add([]byte(seed), uint16(7))
	}
	f.Fuzz(func(t *testing.T, body []byte, size uint16) {
		want := read(kind, bytes.NewReader(body))
		got := read(kind, chunked{bytes.NewReader(body), int(size%512) + 1})
		if got.text != want.text || got.reasoning != want.reasoning || got.parts != want.parts || got.result != want.result ||
			(got.err == nil) != (want.err == nil) || got.err != nil && class(t, got.err) != class(t, want.err) {
			t.Errorf("in pieces: %+v; whole: %+v", got, want)
		}
		if got.err == nil && got.text == "" {
			t.Error("an empty answer is good")
		}
		if got.err != nil {
			checkMessage(t, failure(t, got.err))
		}
	})
}

func FuzzOpenAI(f *testing.F) {
	fuzzDecoder(f, OpenAI, openAIGood, `data: {"error":{"code":402,"message":"x"}}`+"\n\n", `data: {"choices":[{"delta":{"content":[{"text":"a"}]}}]}`+"\n\n", "event: error\ndata: x\n\n")
}

func FuzzAnthropic(f *testing.F) {
	fuzzDecoder(f, Anthropic, anthropicGood, `data: {"type":"error","error":{"type":"overloaded_error"}}`+"\n\n", "event: error\ndata: x\n\n")
}
