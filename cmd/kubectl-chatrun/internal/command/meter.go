// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/follow"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/screen"
)

const (
	// maxMetered is how many runs are read at once: more are not looked at, and a
	// manager serves those who read too.
	maxMetered = 16
	// rateWindow is the time over which a rate is taken, and rateStep its grain.
	rateWindow = 5 * time.Second
	rateStep   = 500 * time.Millisecond
	// settling is how long the text of a stream may be that of before: who joins gets
	// all that came until then.
	settling = time.Second
	// bytesOfToken is a rule of thumb, and so the rate an estimate.
	bytesOfToken = 4
)

// meter counts the text of runs that stream. All but the reading is done by one goroutine.
type meter struct {
	follower *follow.Follower
	now      func() time.Time
	counts   chan count
	metered  map[types.UID]*metered
}

// count is text that came.
type count struct {
	uid   types.UID
	bytes int
}

// metered is a run that is read.
type metered struct {
	stop  context.CancelFunc
	since time.Time
	// steps are the bytes of the last steps by their number, counted from since.
	steps map[int]int
}

func newMeter(follower *follow.Follower, now func() time.Time) *meter {
	return &meter{follower: follower, now: now, counts: make(chan count), metered: map[types.UID]*metered{}}
}

// set begins or ends to read a run.
func (m *meter) set(ctx context.Context, run *v1alpha1.ChatRun, streams bool) {
	known := m.metered[run.UID]
	switch {
	case !streams && known != nil:
		known.stop()
		delete(m.metered, run.UID)
	case streams && known == nil && len(m.metered) < maxMetered:
		ctx, stop := context.WithCancel(ctx)
		m.metered[run.UID] = &metered{stop: stop, since: m.now().Add(settling), steps: map[int]int{}}
		go m.read(ctx, run.UID, follow.Key{Namespace: run.Namespace, Name: run.Name})
	}
}

// read hands over what comes. A stream that cannot be read leaves the rate empty.
func (m *meter) read(ctx context.Context, uid types.UID, run follow.Key) {
	_ = m.follower.Follow(ctx, run, true, func(event follow.Event) {
		part, is := event.(stream.MessagePart)
		if !is {
			return
		}
		select {
		case m.counts <- count{uid, len(part.Text) + len(part.Reasoning)}:
		case <-ctx.Done():
		}
	})
}

// add counts.
func (m *meter) add(n count) {
	known := m.metered[n.uid]
	if known == nil {
		return
	}
	if age := m.now().Sub(known.since); age > 0 {
		known.steps[int(age/rateStep)] += n.bytes
	}
}

// rates are those of the last seconds, by run.
func (m *meter) rates() map[types.UID]string {
	rates := map[types.UID]string{}
	for uid, known := range m.metered {
		age := m.now().Sub(known.since)
		over, last := min(age, rateWindow), int(age/rateStep)
		bytes := 0
		for step, n := range known.steps {
			if step <= last-int(rateWindow/rateStep) {
				delete(known.steps, step)
				continue
			}
			bytes += n
		}
		if over > rateStep && bytes > 0 {
			rates[uid] = "≈" + screen.Rate(float64(bytes)/bytesOfToken/over.Seconds())
		}
	}
	return rates
}
