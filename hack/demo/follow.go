// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"chatrun.dev/operator/api/stream"
)

const (
	// maxLine is the longest line of the stream that is read: a frame holds at
	// most a whole answer.
	maxLine = 32 << 20
	// appearTime is how long the manager may take to hear of a run.
	appearTime = 10 * time.Second
	appearPoll = 50 * time.Millisecond
)

// event is one frame of the stream endpoint.
type event struct {
	name stream.Name
	data []byte
	at   time.Time // when it came
}

// follow reads a run's stream until it is over, and shows it.
func follow(ctx context.Context, out *screen, address, namespace, name string) ([]event, error) {
	url := "http://" + address + "/v1/namespaces/" + namespace + "/chatruns/" + name + "/stream"
	out.say("demo", "curl -N %s", url)
	response, err := open(ctx, url)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	var events []event
	for e, err := range frames(response.Body) {
		if err != nil {
			return nil, fmt.Errorf("reading the stream: %w", errors.Join(err, context.Cause(ctx)))
		}
		events = append(events, e)
		if err := showEvent(out, e); err != nil {
			return nil, err
		}
	}
	return events, nil
}

// open asks for the stream, again while the manager has not heard of the run.
func open(ctx context.Context, url string) (*http.Response, error) {
	appear, cancel := context.WithTimeout(ctx, appearTime)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return nil, err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return nil, fmt.Errorf("opening the stream: %w", err)
		}
		if response.StatusCode == http.StatusOK {
			return response, nil
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusNotFound {
			return nil, fmt.Errorf("opening the stream: %s", response.Status)
		}
		select {
		case <-appear.Done():
			return nil, fmt.Errorf("opening the stream: still %s", response.Status)
		case <-time.After(appearPoll):
		}
	}
}

// frames reads server-sent events. Each comes with a nil error; an error is the
// last one.
func frames(r io.Reader) func(yield func(event, error) bool) {
	return func(yield func(event, error) bool) {
		lines := bufio.NewScanner(r)
		lines.Buffer(nil, maxLine)
		var next event
		for lines.Scan() {
			field, value, _ := strings.Cut(lines.Text(), ":")
			value = strings.TrimPrefix(value, " ")
			switch {
			case lines.Text() == "" && next.name != "":
				next.at = time.Now()
				if !yield(next, nil) {
					return
				}
				next = event{}
			case field == "event":
				next.name = stream.Name(value)
			case field == "data":
				next.data = append(next.data, value...)
			}
		}
		if err := lines.Err(); err != nil {
			yield(event{}, err)
		}
	}
}

// showEvent shows a part as its text, a status in short, for a watch shows it as
// well, and everything else as it is.
func showEvent(out *screen, e event) error {
	switch e.name {
	case stream.EventMessagePart:
		var part stream.MessagePart
		if err := json.Unmarshal(e.data, &part); err != nil {
			return fmt.Errorf("reading a %s: %w", e.name, err)
		}
		if part.Reasoning != "" {
			out.text("thinking", part.Reasoning)
		} else {
			out.text("text", part.Text)
		}
	case stream.EventStatus, stream.EventDone:
		var status stream.Status
		if err := json.Unmarshal(e.data, &status); err != nil {
			return fmt.Errorf("reading a %s: %w", e.name, err)
		}
		out.say("stream", "%s {… phase: %s, attempt: %d …}", e.name, status.Phase, status.Attempt)
	default:
		out.say("stream", "%s %s", e.name, e.data)
	}
	return nil
}
