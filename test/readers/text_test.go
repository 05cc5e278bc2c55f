// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package readers

import (
	"errors"
	"io"
	"os/exec"
	"testing"
)

// curlAsText is the name of a reader without a parser.
const curlAsText = "curl, format=text"

// What curl says of a broken answer over HTTP/1.1: the body is not at its end,
// or the connection was reset.
const (
	curlPartial = 18
	curlReset   = 56
)

// curlText reads a run's text once.
func curlText(t *testing.T, base, run, query string, options ...string) *reading {
	t.Helper()
	r := newReading()
	take := func(from io.Reader) error {
		buffer := make([]byte, 4<<10)
		for {
			n, err := from.Read(buffer)
			r.part(string(buffer[:n]))
			if errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
		}
	}
	args := append([]string{"-sS", "-N", "--fail", "--cacert", the.caFile, "-H", "@" + the.headerFile}, options...)
	begin(t, nil, r, take, "curl", append(args, streamURL(base, run, "format=text"+query))...)
	return r
}

// exits fails the test unless curl ended the reading with this status.
func exits(t *testing.T, r *reading, code int) {
	t.Helper()
	_, err := r.whole(t)
	exit, failed := errors.AsType[*exec.ExitError](err)
	if !failed || exit.ExitCode() != code {
		t.Errorf("curl ended with %v, not with exit status %d", err, code)
	}
}

// TestTextCut: text as it comes, cut in the middle, and read again.
func TestTextCut(t *testing.T) {
	score(t, curlAsText)
	k := newKnife(t, the.stream)
	base := "https://" + k.address()
	p := newPlay(t, "Grüße, ", words, "🌊\r\n", "end")
	run := beginRun(t, p.answer())
	r := curlText(t, base, run.Name, "", "--http1.1")
	r.saw(t, p.text(1))
	p.goOn(1)
	r.saw(t, p.text(2))
	k.cut()
	exits(t, r, curlReset)
	again := curlText(t, base, run.Name, "")
	for i := range p.parts {
		again.saw(t, p.text(max(i+1, 2)))
		p.goOn(i + 1)
	}
	want := stored(t, run)
	isWhole(t, again, want)
	isWhole(t, curlText(t, base, run.Name, ""), want)
}

// TestTextRetry: text of an attempt that fails cannot be taken back, so the
// answer is broken off, and no reader takes it for whole.
func TestTextRetry(t *testing.T) {
	for _, version := range []string{"--http1.1", "--http2"} {
		t.Run(version, func(t *testing.T) {
			score(t, curlAsText)
			r := textRetry(t, the.stream, version)
			if version == "--http1.1" {
				exits(t, r, curlPartial)
			}
		})
	}
}

// textRetry returns the reading of a run whose first attempt failed after text
// of it was read.
func textRetry(t *testing.T, address, version string) *reading {
	base := "https://" + address
	lost, kept := newPlay(t, "lost ", "text"), newPlay(t, "kept ", "text")
	run := beginRun(t, lost.answer().ResetAfter(2), kept.answer())
	r := curlText(t, base, run.Name, "", version)
	patient := curlText(t, base, run.Name, "&hold=true", version)
	r.saw(t, lost.text(1))
	lost.finish()
	isBroken(t, r)
	again := curlText(t, base, run.Name, "", version)
	again.saw(t, kept.text(1))
	kept.finish()
	want := stored(t, run)
	isWhole(t, again, want)
	isWhole(t, patient, want)
	return r
}
