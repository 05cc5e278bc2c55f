// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package actor

import (
	"slices"
	"strings"
	"testing"
	"time"

	"chatrun.dev/operator/test/bench/meter"
)

// TestStamps cuts bytes with three stamps at every place, into two and into single bytes.
func TestStamps(t *testing.T) {
	before := meter.Monotonic()
	one, two := stamp(), stamp()
	whole := `data: {"text":" token` + one + `"}` + "\n\ndata: " + two + one + " ~ no stamp: ~12"
	read := func(pieces ...string) (found []time.Duration) {
		var s stamps
		for _, piece := range pieces {
			s.next([]byte(piece), func(sent time.Duration) { found = append(found, sent) })
		}
		return found
	}
	want := read(whole)
	if len(want) != 3 || want[0] < before || want[1] < want[0] || want[2] != want[0] || want[1] > meter.Monotonic() {
		t.Fatalf("%v, after %v", want, before)
	}
	for i := range whole {
		if got := read(whole[:i], whole[i:]); !slices.Equal(got, want) {
			t.Errorf("cut at %d: %v, not %v", i, got, want)
		}
	}
	if got := read(strings.Split(whole, "")...); !slices.Equal(got, want) {
		t.Errorf("byte by byte: %v, not %v", got, want)
	}
}
