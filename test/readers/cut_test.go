// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package readers

import (
	"strings"
	"testing"
	"time"
)

// within is where a frame is cut: behind the first 16 KiB, since readers of
// HTTP/2 see nothing of a frame of its own that is not whole.
const within = 24 << 10

// words is a part of 7 KiB, as a status has to keep all of it, whose frame is
// longer than that: control characters take six bytes there. The others take 1
// to 4 bytes.
var words = strings.Repeat("Wörter, 言葉, 🌊\n\""+strings.Repeat("\x01", 30), 130)

// TestCut: a reader is cut between two frames, stays away while the attempt
// fails and the next one begins, and is cut again within a frame.
func TestCut(t *testing.T) {
	for _, reader := range readers {
		t.Run(reader.name, func(t *testing.T) {
			t.Parallel()
			score(t, reader.name)
			k := newKnife(t, the.stream)
			base := "https://" + k.address()
			lost, kept := newPlay(t, "lost ", "text"), newPlay(t, "Grüße, ", "first ", words, "end 🌊\r\n")
			var r *reading
			if reader.early {
				r = reader.start(t, base, name(t))
			}
			run := beginRun(t, lost.answer().ResetAfter(2), kept.answer())
			if r == nil {
				r = reader.start(t, base, run.Name)
			}
			r.saw(t, lost.text(1))
			release := k.hold()
			k.cut()
			lost.finish()
			attempted(t, run, 2)
			release()
			r.saw(t, kept.text(1))
			kept.goOn(1)
			r.saw(t, kept.text(2))
			cut := k.cutAfter(within)
			kept.goOn(2)
			select {
			case <-cut:
			case <-time.After(patience):
				t.Fatal("there was nothing to cut")
			}
			r.saw(t, kept.text(3))
			kept.finish()
			got, err := r.whole(t)
			if err != nil {
				t.Fatal(err)
			}
			equals(t, got, stored(t, run))
			equals(t, got, kept.all())
			if r.resets == 0 {
				t.Error("the reader was not told of the new attempt")
			}
			if reader.tells && r.broken != 1 {
				t.Errorf("the reader was cut %d times within a frame, not once", r.broken)
			}
		})
	}
}

// TestFinished: a reader of a finished run is cut within the one frame that has
// all the text.
func TestFinished(t *testing.T) {
	for _, reader := range readers {
		t.Run(reader.name, func(t *testing.T) {
			t.Parallel()
			score(t, reader.name)
			p := newPlay(t, words, words, "end")
			p.finish()
			run := beginRun(t, p.answer())
			want := stored(t, run)
			k := newKnife(t, the.stream)
			cut := k.cutAfter(within)
			r := reader.start(t, "https://"+k.address(), run.Name)
			got, err := r.whole(t)
			if err != nil {
				t.Fatal(err)
			}
			equals(t, got, want)
			select {
			case <-cut:
			default:
				t.Error("nothing was cut")
			}
		})
	}
}
