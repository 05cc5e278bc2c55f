// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

	"chatrun.dev/operator/api/stream"
)

// Frame is one event of a stream.
type Frame struct {
	ID    string
	Event stream.Name
	Data  string
}

// Into decodes the frame's data.
func Into[T any](f Frame) (T, error) {
	var v T
	err := json.Unmarshal([]byte(f.Data), &v)
	return v, err
}

// Read reads the stream at url until it ends or ctx does, and hands over each
// frame. lastEventID may be empty.
func Read(ctx context.Context, url, lastEventID string, frame func(Frame)) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if lastEventID != "" {
		req.Header.Set("Last-Event-ID", lastEventID)
	}
	// Its own connection: a reader's end must not wait for an idle one.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return fmt.Errorf("the stream answered %s: %s", resp.Status, body)
	}
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 32<<20)
	var f Frame
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			f.ID = value
		case "event":
			f.Event = stream.Name(value)
		case "data":
			f.Data = value
		case "":
			if lines.Text() == "" && f.Event != "" {
				frame(f)
				f = Frame{}
			}
		}
	}
	return lines.Err()
}

// Draft is what a reader has in its hands: the text after the last reset.
type Draft struct {
	Text    string
	Retries []stream.Retry
	Resets  int
	Title   string
	Usage   stream.Usage
	Failed  *stream.Failed
	Done    *stream.Done
	// Phases are those of the status frames, in order.
	Phases []string
	// Stale counts parts that came after a retry and before a reset.
	Stale   int
	pending bool
}

// Take applies a frame, as any front end would.
func (d *Draft) Take(f Frame) error {
	switch f.Event {
	case stream.EventStatus:
		s, err := Into[stream.Status](f)
		d.Phases = append(d.Phases, s.Phase)
		return err
	case stream.EventMessagePart:
		p, err := Into[stream.MessagePart](f)
		d.Text += p.Text
		if d.pending {
			d.Stale++
		}
		return err
	case stream.EventRetry:
		r, err := Into[stream.Retry](f)
		d.Retries, d.pending = append(d.Retries, r), true
		return err
	case stream.EventReset:
		d.Text, d.pending = "", false
		d.Resets++
	case stream.EventTitle:
		t, err := Into[stream.Title](f)
		d.Title = t.Title
		return err
	case stream.EventUsage:
		u, err := Into[stream.Usage](f)
		d.Usage = u
		return err
	case stream.EventFailed:
		v, err := Into[stream.Failed](f)
		d.Failed = &v
		return err
	case stream.EventDone:
		v, err := Into[stream.Done](f)
		d.Done = &v
		return err
	default:
		return fmt.Errorf("unknown event %q", f.Event)
	}
	return nil
}
