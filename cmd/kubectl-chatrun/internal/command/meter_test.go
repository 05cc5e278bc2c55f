// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package command

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/cmd/kubectl-chatrun/internal/follow"
)

// flow is a door behind which a run says so much each time that step passes.
type flow struct {
	text, reasoning string
	step            time.Duration
}

// Name implements follow.Door.
func (flow) Name() string { return "a flow" }

// Open implements follow.Door.
func (f flow) Open(ctx context.Context, _ follow.Key, _ string, _ bool) (*http.Response, error) {
	r, w := io.Pipe()
	go func() {
		defer func() { _ = w.CloseWithError(io.EOF) }()
		for id := 1; ; id++ {
			select {
			case <-time.After(f.step):
			case <-ctx.Done():
				return
			}
			if _, err := fmt.Fprintf(w, "id: %d\nevent: message_part\ndata: {\"text\":%q,\"reasoning\":%q}\n\n", id, f.text, f.reasoning); err != nil {
				return
			}
		}
	}()
	return &http.Response{StatusCode: http.StatusOK, Body: r}, nil
}

func meterOf(d follow.Door) *meter {
	return newMeter(&follow.Follower{Doors: []follow.Door{d}}, time.Now)
}

func metering(name string) *v1alpha1.ChatRun {
	return &v1alpha1.ChatRun{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: name, UID: types.UID(name)}}
}

// pass lets time pass, and counts.
func (m *meter) pass(d time.Duration) {
	for end := time.After(d); ; {
		select {
		case n := <-m.counts:
			m.add(n)
		case <-end:
			return
		}
	}
}

func TestMeterCountsTokensOfTheLastSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		// 8 bytes each 100 ms are 20 tokens a second.
		m := meterOf(flow{text: "text", reasoning: "hmhm", step: 100 * time.Millisecond})
		m.set(ctx, metering("a"), true)
		m.set(ctx, metering("a"), true)
		if m.pass(settling + rateStep); len(m.rates()) != 0 {
			t.Errorf("before there is anything to tell it tells %v", m.rates())
		}
		for range 20 {
			m.pass(1234 * time.Millisecond)
			var rate float64
			if _, err := fmt.Sscanf(m.rates()["a"], "≈%f/s", &rate); err != nil || rate < 17 || rate > 21 {
				t.Errorf("the rates are %v", m.rates())
			}
		}
		if steps := len(m.metered["a"].steps); steps > int(rateWindow/rateStep) {
			t.Errorf("it keeps %d steps", steps)
		}
		m.set(ctx, metering("a"), false)
		m.add(count{"a", 100}) // what was under way
		if m.pass(time.Second); len(m.rates()) != 0 || len(m.metered) != 0 {
			t.Errorf("a run that streams no more has %v", m.rates())
		}
	})
}

func TestMeterOfASilentRunTellsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		m := meterOf(flow{text: "late", step: 30 * time.Second})
		m.set(ctx, metering("a"), true)
		if m.pass(31 * time.Second); m.rates()["a"] != "≈0.2/s" {
			t.Errorf("the rates are %v", m.rates())
		}
		if m.pass(rateWindow); len(m.rates()) != 0 {
			t.Errorf("the rates are %v, of text that is long over", m.rates())
		}
	})
}

func TestMeterReadsSoManyRunsAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer cancel()
		m := meterOf(flow{text: "x", step: time.Hour})
		for i := range maxMetered + 3 {
			m.set(ctx, metering(fmt.Sprint(i)), true)
		}
		if len(m.metered) != maxMetered {
			t.Errorf("it reads %d runs", len(m.metered))
		}
		m.set(ctx, metering("0"), false)
		if m.set(ctx, metering("last"), true); m.metered["last"] == nil {
			t.Error("there is no room after one ended")
		}
	})
}
