// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package readers

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"chatrun.dev/operator/api/stream"
	"chatrun.dev/operator/test/harness"
)

// reconnect is what our Go reader waits before it comes back.
const reconnect = 200 * time.Millisecond

// frames reads events, and tells a reading of them.
type frames struct {
	lastID string
	done   bool
}

// read reads one connection to its end.
func (f *frames) read(from io.Reader, r *reading) error {
	lines := bufio.NewReader(from)
	var frame harness.Frame
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			if line != "" || frame != (harness.Frame{}) {
				r.change(func() { r.broken++ })
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "id":
			frame.ID = value
		case "event":
			frame.Event = stream.Name(value)
		case "data":
			frame.Data = value
		case "":
			if err := f.take(frame, r); err != nil {
				return err
			}
			frame = harness.Frame{}
		}
	}
}

func (f *frames) take(frame harness.Frame, r *reading) error {
	if frame.ID != "" {
		f.lastID = frame.ID
	}
	switch frame.Event {
	case stream.EventMessagePart:
		part, err := harness.Into[stream.MessagePart](frame)
		r.part(part.Text)
		return err
	case stream.EventReset:
		r.reset()
	case stream.EventDone:
		f.done = true
	}
	return nil
}

// goEvents reads with nothing but net/http.
func goEvents(t *testing.T, base, run string) *reading {
	t.Helper()
	r := newReading()
	client, ctx := httpClient(t), t.Context()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var f frames
		for !f.done {
			if err := f.connect(ctx, client, streamURL(base, run, "wait=30s"), r); err != nil {
				r.end(err)
				return
			}
		}
		r.end(nil)
	}()
	t.Cleanup(func() { <-ended })
	return r
}

// connect reads one connection, and waits after a cut. It returns what ends the
// reading for good.
func (f *frames) connect(ctx context.Context, client *http.Client, url string, r *reading) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if f.lastID != "" {
		req.Header.Set("Last-Event-ID", f.lastID)
	}
	resp, err := client.Do(req)
	if err == nil {
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("the stream answered %s", resp.Status)
		}
		err = f.read(resp.Body, r)
	}
	if f.done {
		return nil
	}
	select {
	case <-time.After(reconnect):
		return nil
	case <-ctx.Done():
		return errors.Join(ctx.Err(), err)
	}
}

// httpClient trusts the test's authority, shows the reader's token, and keeps no
// connection beyond the test.
func httpClient(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: the.trust.Clone(), ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: bearer{transport}}
}

// bearer shows the token.
type bearer struct{ next http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bearer) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+the.token)
	return b.next.RoundTrip(req)
}
