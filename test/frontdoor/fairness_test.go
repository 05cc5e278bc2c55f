// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package frontdoor

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

const (
	crowd = 100
	// asked is how many ordinary requests each user makes beside the crowd.
	asked = 100
)

// fewSeats leaves the API server fewer seats for requests under way than there
// are streams: were each to hold one, nothing else would be answered.
var fewSeats = []harness.Flag{{Name: "max-requests-inflight", Value: "40"}, {Name: "max-mutating-requests-inflight", Value: "20"}}

// testFairness: a hundred streams of one user hold no seat of priority and
// fairness, and requests of that user and of others are answered as before.
func testFairness(t *testing.T, d *door) {
	gate := make(chan struct{})
	p := d.place(t, "crowd", chattest.Always(chattest.Answer("one ", "two").HoldAfter(1, gate)))
	busy, other := d.user(t, "busy"), d.user(t, "other")
	d.grant(t, p.namespace, reader, "User", busy.name)
	for _, u := range []user{busy, other} {
		d.grant(t, p.namespace, "chatrun-viewer", "User", u.name)
	}
	p.run(t, "watched")
	ask := func(when string) {
		for _, u := range []user{busy, other} {
			t.Logf("%s, %d lists and %d gets of user %s: %s", when, asked, asked, u.name, p.ask(t, u))
		}
	}
	ask("no stream")
	before := d.seats(t)

	client := busy.httpClient(t)
	texts := make(chan string, crowd)
	var begun sync.WaitGroup
	for range crowd {
		begun.Add(1)
		go func() { texts <- p.follow(t, busy, client, sync.OnceFunc(begun.Done)) }()
	}
	begun.Wait()
	ask("100 streams")
	during := d.seats(t)
	// Both users' requests, streams included, are of this level.
	for _, metric := range []string{executing, waiting} {
		if held := during[metric]; held >= crowd/10 {
			t.Errorf("%s: %v with %d streams open, %v before", metric, held, crowd, before[metric])
		}
	}
	for _, metric := range []string{executing, waiting, limit, rejected} {
		t.Logf("%-76s before %v, with %d streams %v", metric, before[metric], crowd, during[metric])
	}
	if during[rejected] > before[rejected] {
		t.Errorf("the API server rejected %v requests", during[rejected]-before[rejected])
	}
	if during[limit] >= crowd {
		t.Errorf("there are %v seats in all: with %d streams this shows nothing", during[limit], crowd)
	}

	close(gate)
	for range crowd {
		if text := <-texts; text != "one two" {
			t.Errorf("a stream brought %q", text)
		}
	}
}

// follow reads a stream as text, says when its first word has come, and returns
// all of it.
func (p *place) follow(t *testing.T, u user, client *http.Client, begun func()) string {
	defer begun()
	resp, err := u.get(t.Context(), client, logPath(p.namespace, "watched", "follow=true&format=text"))
	if err != nil {
		return err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return resp.Status
	}
	first := make([]byte, len("one "))
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		return err.Error()
	}
	begun()
	rest, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(first) + string(rest)
}

// ask makes ordinary requests, one after another, and wants every one answered.
func (p *place) ask(t *testing.T, u user) string {
	t.Helper()
	client := u.httpClient(t)
	var took []time.Duration
	const runs = "/apis/chatrun.dev/v1alpha1/namespaces/"
	for range asked {
		for _, path := range []string{runs + p.namespace + "/chatruns", runs + p.namespace + "/chatruns/watched"} {
			begun := time.Now()
			resp, err := u.get(t.Context(), client, path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close() // it was read
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Errorf("%s: %s, %v", path, resp.Status, err)
			}
			took = append(took, time.Since(begun))
		}
	}
	slices.Sort(took)
	round := func(d time.Duration) string { return d.Round(100 * time.Microsecond).String() }
	return "median " + round(took[len(took)/2]) + ", 99% " + round(took[len(took)*99/100]) + ", longest " + round(took[len(took)-1])
}

// What the API server measures of priority and fairness, by the level that
// users' requests belong to. It has no metric for streams that it passes on.
const (
	executing = "apiserver_flowcontrol_current_executing_seats of global-default"
	waiting   = "apiserver_flowcontrol_current_inqueue_requests of global-default"
	limit     = "apiserver_flowcontrol_nominal_limit_seats of all levels"
	rejected  = "apiserver_flowcontrol_rejected_requests_total of all levels"
)

// seats reads the API server's metrics.
func (d *door) seats(t *testing.T) map[string]float64 {
	t.Helper()
	admin := user{cfg: rest.CopyConfig(d.plane.Config)}
	resp, err := admin.get(t.Context(), admin.httpClient(t), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]float64{}
	lines := bufio.NewScanner(bytes.NewReader(raw))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		for _, name := range []string{executing, waiting, limit, rejected} {
			metric, of, _ := strings.Cut(name, " of ")
			labels, ok := strings.CutPrefix(line, metric+"{")
			if !ok || of != "all levels" && !strings.Contains(labels, `"`+of+`"`) {
				continue
			}
			value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			if err != nil {
				t.Fatal(err)
			}
			sums[name] += value
		}
	}
	return sums
}
