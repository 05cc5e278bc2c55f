// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"chatrun.dev/operator/api/stream"
)

// TestRelayNotFollowed: ?follow=false at an edge ends with what the owner has, and
// is refused if that cannot be had.
func TestRelayNotFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newReplicas("a", "b")
		all.owned("a", pendingView())
		a, b := all.all["a"], all.all["b"]
		a.hub.Begin(hello, statusOf(hello, "Streaming", 1))
		a.hub.Part(hello.UID, 1, text("so far"))
		w, done := b.attend(t.Context(), helloPath+"?follow=false", "")
		<-done
		c := &client{t: t}
		c.read(w.String())
		if c.draft != "so far" || c.done {
			t.Errorf("draft %q, done %t", c.draft, c.done)
		}
		synctest.Wait()
		if all.connections() != 0 {
			t.Error("the connection outlives its readers")
		}
		all.set(func() { all.down = errors.New("down") })
		w, done = b.attend(t.Context(), helloPath+"?follow=false", "")
		<-done
		if w.code != http.StatusServiceUnavailable || w.header.Get("Retry-After") == "" {
			t.Errorf("%d %s", w.code, w)
		}
	})
}

// TestRelayConcluded: the owner vanished, and the run is finished. Readers are told
// so as soon as that is known.
func TestRelayConcluded(t *testing.T) {
	for name, whole := range map[string]bool{"all was read": true, "some was not": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				all := newReplicas("a", "b")
				all.owned("a", pendingView())
				a, b := all.all["a"], all.all["b"]
				a.hub.Begin(hello, statusOf(hello, "Streaming", 1))
				a.hub.Part(hello.UID, 1, text("begun"))
				w, done := b.attend(t.Context(), helloPath, "")
				rest(t.Context(), time.Second)
				want := "begun"
				if !whole {
					want += " and ended"
				}
				end := endOf(hello, "Succeeded", 1)
				end.Done.Bytes = int64(len(want))
				all.set(func() { all.down = errors.New("down") })
				all.owned("", View{Run: hello, Status: end.Done.Status, Finished: true, Text: want, End: end})
				began := time.Now()
				a.hub.Close()
				<-done
				if took := time.Since(began); took > time.Second {
					t.Errorf("after %s", took)
				}
				c := &client{t: t}
				c.read(w.String())
				if c.draft != want || !c.done || strings.Contains(names(c.events), "reset") == whole {
					t.Errorf("draft %q, done %t: %s", c.draft, c.done, names(c.events))
				}
			})
		})
	}
}

// TestRelayTrimmed: the owner lost parts, and the edge loses others. Everybody has
// the whole text.
func TestRelayTrimmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newReplicas("a", "b")
		all.owned("a", pendingView())
		a, b := all.all["a"], all.all["b"]
		a.hub.LogBytes, b.hub.LogBytes = 16<<10, 8<<10
		a.hub.Begin(hello, statusOf(hello, "Streaming", 1))
		want := ""
		more := func() {
			for range 200 {
				s := strings.Repeat("word ", 20)
				want += s
				a.hub.Part(hello.UID, 1, text(s))
			}
		}
		more()
		w, done := b.attend(t.Context(), helloPath, "")
		plainText, textDone := b.attend(t.Context(), helloPath+"?format=text", "")
		rest(t.Context(), time.Second)
		more()
		late, lateDone := b.attend(t.Context(), helloPath, "")
		rest(t.Context(), time.Second)
		end := endOf(hello, "Succeeded", 1)
		end.Done.Bytes = int64(len(want))
		a.hub.Finish(hello, end)
		<-done
		<-textDone
		<-lateDone
		for _, one := range []*recorder{w, late} {
			c := &client{t: t}
			c.read(one.String())
			if c.draft != want || !c.done {
				t.Errorf("%d of %d bytes, done %t", len(c.draft), len(want), c.done)
			}
		}
		if plainText.String() != want {
			t.Errorf("%d of %d bytes of text", len(plainText.String()), len(want))
		}
	})
}

// TestNarratorGoesOn: the history is told anew, and the text of the same attempt
// goes on where it was.
func TestNarratorGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newReplicas("a", "b")
		all.owned("a", pendingView())
		a, b := all.all["a"], all.all["b"]
		a.hub.Begin(hello, statusOf(hello, "Streaming", 1))
		a.hub.Part(hello.UID, 1, text("one "))
		w, done := b.attend(t.Context(), helloPath+"?format=text", "")
		rest(t.Context(), time.Second)
		// The owner's log drops what the edge's is at, so that it cannot resume.
		b.hub.find(hello.UID).mu.Lock()
		b.hub.find(hello.UID).last++
		b.hub.find(hello.UID).mu.Unlock()
		a.hub.Part(hello.UID, 1, text("two"))
		rest(t.Context(), 10*time.Second)
		end := endOf(hello, "Succeeded", 1)
		end.Done.Bytes = 7
		a.hub.Finish(hello, end)
		<-done
		if w.String() != "one two" || len(all.opened()) != 2 {
			t.Errorf("%q after %q", w, all.opened())
		}
	})
}

// upstream are Peers of which each connection says the same.
type upstream struct {
	say   func(io.Writer)
	opens atomic.Int32
}

func (u *upstream) Open(ctx context.Context, _ string, _ Run, _ string) (io.ReadCloser, error) {
	u.opens.Add(1)
	from, to := io.Pipe()
	go func() {
		u.say(to)
		<-ctx.Done()
		_ = to.Close()
	}()
	return from, nil
}

func ledgerFrame(book ledger) string { return string(unplaced(eventLedger, encode(book))) }

const otherEpoch = "AAAAAAAAAA"

// TestRelayGarbage: an owner that sends what it should not costs a try now and
// then, and readers see nothing of it.
func TestRelayGarbage(t *testing.T) {
	status := statusOf(hello, "Streaming", 1)
	good := ledgerFrame(ledger{Epoch: otherEpoch, Last: 1, Told: 1, Status: &status, Attempt: 1, Open: true})
	for name, say := range map[string]string{
		"nothing at all":      "",
		"a page":              "<html>\n<body>no</body>\n\n",
		"an endless line":     strings.Repeat("x", 4096),
		"half a frame":        good + "id: AAAAAAAAAA-1-2\nevent: message_part\nda",
		"no ledger":           "id: AAAAAAAAAA-1-2\nevent: message_part\ndata: {}\n\n",
		"live without one":    ": live\n\n",
		"an absurd ledger":    "event: ledger\ndata: {\"epoch\":\"AAAAAAAAAA\",\"last\":18446744073709551615}\n\n",
		"an epoch of two":     "event: ledger\ndata: {\"epoch\":\"AAAA\\nAAAAA\"}\n\n",
		"no ledger's data":    "event: ledger\ndata: 7\n\n",
		"another run's":       ledgerFrame(ledger{Epoch: otherEpoch, Status: &stream.Status{UID: "other"}}),
		"text for nothing":    "event: text\ndata: {\"text\":\"x\"}\n\n",
		"a later id":          good + "id: AAAAAAAAAA-1-99999999999999999999\nevent: status\ndata: {}\n\n",
		"an absurd id":        good + "id: AAAAAAAAAA-1-18446744073709551615\nevent: status\ndata: {}\n\n",
		"an earlier id":       good + "id: AAAAAAAAAA-1-3\nevent: title\ndata: {}\n\nid: AAAAAAAAAA-1-3\nevent: title\ndata: {}\n\n",
		"another epoch":       good + "id: BBBBBBBBBB-1-2\nevent: message_part\ndata: {}\n\n",
		"another attempt":     good + "id: AAAAAAAAAA-2-2\nevent: message_part\ndata: {}\n\n",
		"a status of another": good + "id: AAAAAAAAAA-1-2\nevent: status\ndata: {\"uid\":\"other\"}\n\n",
		"no status":           good + "id: AAAAAAAAAA-1-2\nevent: status\ndata: x\n\n",
		"an end of another":   good + "id: end-other\nevent: done\ndata: {}\n\n",
		"usage for ever":      good + strings.Repeat("id: AAAAAAAAAA-1-2\nevent: usage\ndata: {}\n\n", 4),
		"frames after usage":  good + "id: AAAAAAAAAA-1-2\nevent: usage\ndata: {}\n\nid: AAAAAAAAAA-1-3\nevent: title\ndata: {}\n\n",
		"a carriage return":   good + "id: AAAAAAAAAA-1-2\nevent: message_part\ndata: {}\revent: done\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hub, view := NewHub(), pendingView()
				view.Owner = "a"
				peers := &upstream{say: func(w io.Writer) { _, _ = io.WriteString(w, say) }}
				h := NewHandler(hub, views(view), Anyone)
				h.Peers = peers
				w, done := (&replica{handler: h}).attend(t.Context(), helloPath, "")
				<-done
				events := parse(w.String())
				if got := names(events); got != "status failed" || !strings.Contains(events[1].data, "OwnerUnreachable") {
					t.Errorf("%s", w)
				}
				if peers.opens.Load() < 2 || peers.opens.Load() > 30 {
					t.Errorf("%d tries", peers.opens.Load())
				}
				if hub.Bytes() != 0 || hub.Readers() != 0 {
					t.Errorf("%d bytes, %d readers", hub.Bytes(), hub.Readers())
				}
			})
		})
	}
}

// TestRelaySilence: an owner of whom nothing is heard is asked again.
func TestRelaySilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, view := NewHub(), pendingView()
		view.Owner = "a"
		status := statusOf(hello, "Streaming", 1)
		good := ledgerFrame(ledger{Epoch: otherEpoch, Last: 1, Told: 1, Status: &status, Attempt: 1, Open: true}) + ": live\n\n"
		peers := &upstream{say: func(w io.Writer) { _, _ = io.WriteString(w, good) }}
		h := NewHandler(hub, views(view), Anyone)
		h.Peers = peers
		ctx, cancel := context.WithCancel(t.Context())
		_, done := (&replica{handler: h}).attend(ctx, helloPath, "")
		rest(t.Context(), silentBeats*DefaultHeartbeat-time.Second)
		if peers.opens.Load() != 1 {
			t.Errorf("%d connections", peers.opens.Load())
		}
		rest(t.Context(), 2*time.Second)
		if peers.opens.Load() != 2 {
			t.Errorf("%d connections after the silence", peers.opens.Load())
		}
		cancel()
		<-done
	})
}

// TestRelayEndpoint: what a replica answers that does not have the run.
func TestRelayEndpoint(t *testing.T) {
	finished := View{Run: hello, Finished: true, Status: statusOf(hello, "Succeeded", 1)}
	another := pendingView()
	another.Owner = "b"
	for name, tc := range map[string]struct {
		view   View
		err    error
		target string
		code   int
	}{
		"another's":    {another, nil, "default/chatruns/hello?uid=uid-1", http.StatusMisdirectedRequest},
		"finished":     {finished, nil, "default/chatruns/hello?uid=uid-1", http.StatusMisdirectedRequest},
		"of another":   {pendingView(), nil, "default/chatruns/hello?uid=uid-2", http.StatusNotFound},
		"no UID":       {pendingView(), nil, "default/chatruns/hello", http.StatusNotFound},
		"none":         {View{}, ErrNotFound, "default/chatruns/hello?uid=uid-1", http.StatusNotFound},
		"unknown":      {View{}, errors.New("down"), "default/chatruns/hello?uid=uid-1", http.StatusServiceUnavailable},
		"no name":      {pendingView(), nil, "default/chatruns/Hello?uid=uid-1", http.StatusBadRequest},
		"another path": {pendingView(), nil, "default", http.StatusNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			h := NewHandler(NewHub(), source(func() (View, error) { return tc.view, tc.err }), Anyone)
			answer := httptest.NewRecorder()
			h.Relay(Anyone).ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, RelayPath+tc.target, http.NoBody))
			if answer.Code != tc.code || !json.Valid(answer.Body.Bytes()) {
				t.Errorf("%d %s", answer.Code, answer.Body)
			}
			if h.hub.Readers() != 0 || len(h.hub.logs) != 0 {
				t.Errorf("%d readers, %d logs", h.hub.Readers(), len(h.hub.logs))
			}
		})
	}
}

// TestRelaysAreBounded: by a bound of their own.
func TestRelaysAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := NewHub()
		h := NewHandler(hub, views(pendingView()), Anyone)
		h.MaxReaders, h.MaxRelays = 1, 4
		relay := h.Relay(Anyone)
		ctx, cancel := context.WithCancel(t.Context())
		codes := make(chan int, 5)
		for range 5 {
			go func() {
				w := newRecorder()
				r := httptest.NewRequestWithContext(ctx, http.MethodGet, RelayPath+"default/chatruns/hello?uid=uid-1", http.NoBody)
				relay.ServeHTTP(w, r)
				codes <- w.code
			}()
		}
		// Three quarters are for one namespace.
		if a, b := <-codes, <-codes; a != http.StatusTooManyRequests || b != http.StatusTooManyRequests {
			t.Errorf("%d, %d", a, b)
		}
		if c := h.Counts(); c.Forwarded != 3 || c.RefusedRelays != 2 || c.Readers != 0 {
			t.Errorf("counted: %+v", c)
		}
		_, done := (&replica{handler: h}).attend(ctx, helloPath, "")
		synctest.Wait()
		if hub.Readers() != 4 {
			t.Errorf("%d readers", hub.Readers())
		}
		hub.Close()
		for range 3 {
			if code := <-codes; code != http.StatusOK {
				t.Error(code)
			}
		}
		<-done
		cancel()
	})
}

// FuzzIncoming: whatever comes, no panic, nothing without a bound, and nothing
// that a reader would take for more than one frame.
func FuzzIncoming(f *testing.F) {
	status := statusOf(hello, "Streaming", 1)
	good := ledgerFrame(ledger{Epoch: otherEpoch, Last: 1, Told: 1, Status: &status, Attempt: 1, Open: true})
	f.Add(good + ": live\n\nid: AAAAAAAAAA-1-2\nevent: message_part\ndata: {\"text\":\"x\"}\n\n")
	f.Add(good + "id: end-uid-1\nevent: done\ndata: {\"uid\":\"uid-1\"}\n\n")
	f.Add("id: \nevent: \ndata: \n\n")
	f.Fuzz(func(t *testing.T, raw string) {
		h := NewHandler(NewHub(), views(pendingView()), Anyone)
		l := newLog(hello, 4096, &h.hub.memory)
		l.mirror = newMirror()
		c := receiver{relay: &relay{Handler: h, log: l, mirror: l.mirror}}
		in := newIncomings(strings.NewReader(raw))
		for {
			frame, err := in.next()
			if err != nil || c.take(frame) != nil {
				break
			}
		}
		r := reader{log: l}
		for _, data := range r.next(nil).frames {
			if _, err := parseFrame(data); err != nil || strings.Count(string(data), "\n\n") != 1 {
				t.Errorf("%q", data)
			}
		}
	})
}
