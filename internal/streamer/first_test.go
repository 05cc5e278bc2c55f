// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"chatrun.dev/operator/api/stream"
)

// TestFirstRelayedPartIsUrgent: as it is at the owner; those after it are not.
func TestFirstRelayedPartIsUrgent(t *testing.T) {
	status := statusOf(hello, "Streaming", 1)
	raw := ledgerFrame(ledger{Epoch: otherEpoch, Last: 1, Told: 1, Status: &status, Attempt: 1, Open: true}) + ": live\n\n"
	for seq := range 2 {
		raw += fmt.Sprintf("id: %s-1-%d\nevent: message_part\ndata: {\"role\":\"assistant\",\"text\":\"x\"}\n\n", otherEpoch, seq+2)
	}
	h := NewHandler(NewHub(), views(pendingView()), Anyone)
	l := newLog(hello, 4096, &h.hub.memory)
	l.mirror = newMirror()
	c, in := receiver{relay: &relay{Handler: h, log: l, mirror: l.mirror}}, newIncomings(strings.NewReader(raw))
	r := reader{log: l}
	var urgent []bool
	for range 4 {
		frame, err := in.next()
		if err != nil {
			t.Fatal(err)
		}
		b := r.next(nil)
		if b.fallen { // as a mirror is, when it was taken
			r.enter(false, &View{})
			b = r.next(nil)
		}
		if err := c.take(frame); err != nil {
			t.Fatal(err)
		}
		if frame.event != stream.EventMessagePart {
			continue
		}
		urgent = append(urgent, l.alarms.Load() != b.known.alarms)
	}
	if !slices.Equal(urgent, []bool{true, false}) {
		t.Errorf("urgent: %v", urgent)
	}
}
