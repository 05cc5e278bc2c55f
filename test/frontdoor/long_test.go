// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package frontdoor

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"chatrun.dev/operator/internal/chattest"
)

// The API server ends an ordinary request after 60 s.
const (
	longLife  = 3 * time.Minute
	longPace  = 3 * time.Second
	longWords = int(longLife/longPace) + 5
)

// arrival is what came at once, and when.
type arrival struct {
	at   time.Time
	text string
}

// testLong: streams live longer than three minutes, and bring every word when it
// is said, to kubectl as to any other client.
func testLong(t *testing.T, d *door) {
	words := chattest.Words(strings.TrimSpace(strings.Repeat("word ", longWords)))
	p := d.place(t, "long", chattest.Always(chattest.Answer(words...).Pace(longPace)))
	patient := d.user(t, "patient")
	d.grant(t, p.namespace, reader, "User", patient.name)
	for _, name := range []string{"kubectl", "http"} {
		p.run(t, name)
	}
	client := patient.httpClient(t)
	var reading sync.WaitGroup
	defer reading.Wait()
	reading.Go(func() {
		begun := time.Now()
		all, err := d.readByKubectl(t, patient, p.namespace)
		judge(t, "kubectl", begun, words, all, err)
	})
	reading.Go(func() {
		begun := time.Now()
		all, err := readByHTTP(t.Context(), patient, client, p.namespace)
		judge(t, "http", begun, words, all, err)
	})
}

func (d *door) readByKubectl(t *testing.T, u user, namespace string) ([]arrival, error) {
	cmd := d.command(t.Context(), t.TempDir(), u.kubeconfig, "get", "--raw", logPath(namespace, "kubectl", "follow=true&format=text"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	all, err := arrivals(out)
	return all, errors.Join(err, cmd.Wait())
}

func readByHTTP(ctx context.Context, u user, client *http.Client, namespace string) ([]arrival, error) {
	resp, err := u.get(ctx, client, logPath(namespace, "http", "follow=true&format=text"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(resp.Status)
	}
	return arrivals(resp.Body)
}

// arrivals reads to the end.
func arrivals(from io.Reader) ([]arrival, error) {
	var all []arrival
	buffer := make([]byte, 4<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			all = append(all, arrival{time.Now(), string(buffer[:n])})
		}
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
	}
}

// judge wants all words, over three minutes of them, and no two together: each
// came as it was said.
func judge(t *testing.T, reader string, begun time.Time, words []string, all []arrival, err error) {
	lived := time.Since(begun)
	if err != nil {
		t.Errorf("%s: %v", reader, err)
	}
	var text strings.Builder
	var widest time.Duration
	for i, a := range all {
		text.WriteString(a.text)
		if i > 0 {
			widest = max(widest, a.at.Sub(all[i-1].at))
		}
	}
	if want := strings.Join(words, ""); text.String() != want {
		t.Errorf("%s: %d bytes came of %d", reader, text.Len(), len(want))
	}
	if lived <= longLife {
		t.Errorf("the stream of %s lived %v", reader, lived)
	}
	if len(all) < len(words)*9/10 {
		t.Errorf("%s: %d words came in %d pieces: something on the way gathers them", reader, len(words), len(all))
	}
	t.Logf("the stream of %s lived %v: %d words in %d pieces, at most %v between two (said every %v)", reader, lived, len(words), len(all), widest, longPace)
}
