// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package follow brings the events of a run to whoever shows them, by the door that
// is open: the API server's front door, a tunnel to a manager, an address that was
// given, or the run's object. A connection that is cut is made again.
package follow

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/tmaxmax/go-sse"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"chatrun.dev/operator/api/stream"
)

const (
	// maxFrame is the longest frame: the whole text of an attempt, which the manager
	// holds to 16 MiB, as JSON that may write a character as six.
	maxFrame = 100 << 20
	// maxSilence is how long a connection may say nothing: a living one has a comment
	// every 15 s.
	maxSilence = 45 * time.Second
	// maxFailures is how often in a row a door may fail before it is given up. With the
	// pauses below that is some 20 s, longer than a manager takes to be replaced.
	maxFailures = 8
	// maxError bounds what is read of an answer that refuses.
	maxError = 64 << 10
	// maxWords bounds what is shown of an answer that is no Status, such as a page of a proxy.
	maxWords = 200
)

// pauses are those between two tries of one door. The random part keeps the readers
// of a manager that was replaced apart.
func pauses() wait.Backoff {
	return wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 30, Cap: 5 * time.Second}
}

// noDoor is the advice where something else answers.
const noDoor = "No stream endpoint of a ChatRun manager answers there: see `kubectl chatrun logs --help` for the others."

// errSilent is what ends a connection on which nothing comes.
var errSilent = errors.New("nothing was heard on the connection, not even a keep-alive")

// Key names a run.
type Key struct{ Namespace, Name string }

// String is as kubectl writes it.
func (k Key) String() string { return k.Namespace + "/" + k.Name }

// Event is one of the types of package stream, as a value.
type Event any

// Door is a way to the stream of a run.
type Door interface {
	// Name is what messages call it.
	Name() string
	// Open opens the stream of a run right after an event, or from its beginning.
	// It is followed to the run's end, or tells what stands.
	Open(ctx context.Context, run Key, after string, follow bool) (*http.Response, error)
}

// RefusedError is an answer that does not change by asking again.
type RefusedError struct {
	// Door is whose answer it is, and Advice what to do.
	Door, Advice string
	// Everywhere says that no other door will answer otherwise.
	Everywhere bool
	// Cause is the answer.
	Cause error
}

// Error names all three.
func (e *RefusedError) Error() string { return fmt.Sprintf("%s: %v\n%s", e.Door, e.Cause, e.Advice) }

// Unwrap is the answer.
func (e *RefusedError) Unwrap() error { return e.Cause }

// Follower follows runs.
type Follower struct {
	// Doors are tried in this order.
	Doors []Door
	// Object reads the run's object where no door leads to its stream; nil never does.
	Object *Object
	// Say tells what a person has to know, a line each.
	Say func(string)
}

// Follow hands over the events of a run until it is done, and returns nil then. With
// follow false it ends with what stands.
func (f *Follower) Follow(ctx context.Context, run Key, follow bool, take func(Event)) error {
	var after string
	var last error
	for _, door := range f.Doors {
		last = through(ctx, door, run, follow, &after, take)
		if last == nil || ctx.Err() != nil || apierrors.IsNotFound(last) {
			return last
		}
		if f.Object != nil {
			f.Say(last.Error())
		}
		var refused *RefusedError
		if errors.As(last, &refused) && refused.Everywhere {
			break
		}
	}
	if f.Object == nil {
		return last
	}
	f.Say("Following the object of the run: phases and retries as they come, the text at its end.")
	if after != "" {
		take(stream.Reset{})
	}
	return f.Object.follow(ctx, run, follow, take)
}

// through follows a run through one door, and keeps the id of the last event.
func through(ctx context.Context, door Door, run Key, follow bool, after *string, take func(Event)) error {
	pause := pauses()
	for failures := 0; ; {
		before := *after
		done, err := once(ctx, door, run, follow, after, take)
		var refused *RefusedError
		switch {
		case done || ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &refused), apierrors.IsNotFound(err):
			return err
		case err == nil && !follow:
			return nil
		case *after != before:
			failures, pause = 0, pauses()
		}
		if failures++; failures >= maxFailures {
			if err == nil {
				err = errors.New("the stream ended before the run did")
			}
			return fmt.Errorf("%s failed %d times in a row: %w", door.Name(), failures, err)
		}
		select {
		case <-time.After(pause.Step()):
		case <-ctx.Done():
		}
	}
}

// once reads one connection to its end, and says whether the run was done.
func once(ctx context.Context, door Door, run Key, follow bool, after *string, take func(Event)) (done bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watchdog := time.AfterFunc(maxSilence, func() { cancel(errSilent) })
	defer watchdog.Stop()
	defer func() {
		if err != nil && errors.Is(context.Cause(ctx), errSilent) {
			err = errSilent
		}
	}()
	resp, err := door.Open(ctx, run, *after, follow)
	if err != nil {
		return false, distrusted(door, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode == http.StatusNoContent {
		return true, nil
	}
	if resp.StatusCode != http.StatusOK {
		return false, refusal(door.Name(), run, resp)
	}
	body := &heard{r: resp.Body, tell: func() { watchdog.Reset(maxSilence) }}
	sse.Read(body, &sse.ReadConfig{MaxEventSize: maxFrame})(func(e sse.Event, failure error) bool {
		if failure != nil {
			err = failure
			return false
		}
		var event Event
		if event, err = decode(stream.Name(e.Type), []byte(e.Data)); err != nil {
			return false
		}
		if event != nil { // there may be more than this version knows
			take(event)
		}
		if e.LastEventID != "" {
			*after = e.LastEventID
		}
		_, done = event.(stream.Done)
		return !done
	})
	return done, err
}

// distrusted is the error of a connection whose certificate was refused: it will be the
// next time, too.
func distrusted(door Door, err error) error {
	if _, is := errors.AsType[*tls.CertificateVerificationError](err); !is {
		return err
	}
	advice := "Give the authority of the certificate with --stream-ca, and its name with --stream-server-name if it is not that of the address."
	if _, front := door.(*FrontDoor); front {
		advice = "Look after the certificate-authority of the cluster in your kubeconfig."
	}
	return &RefusedError{Door: door.Name(), Cause: err, Advice: advice}
}

// heard tells of each read that brought something.
type heard struct {
	r    io.Reader
	tell func()
}

// Read implements io.Reader.
func (h *heard) Read(p []byte) (int, error) {
	n, err := h.r.Read(p)
	if n > 0 {
		h.tell()
	}
	return n, err
}

// decode returns nil for an event that this version does not know.
func decode(name stream.Name, data []byte) (Event, error) {
	switch name {
	case stream.EventStatus:
		return as[stream.Status](data)
	case stream.EventMessagePart:
		return as[stream.MessagePart](data)
	case stream.EventRetry:
		return as[stream.Retry](data)
	case stream.EventReset:
		return as[stream.Reset](data)
	case stream.EventTitle:
		return as[stream.Title](data)
	case stream.EventUsage:
		return as[stream.Usage](data)
	case stream.EventFailed:
		return as[stream.Failed](data)
	case stream.EventDone:
		return as[stream.Done](data)
	default:
		return nil, nil
	}
}

func as[T any](data []byte) (Event, error) {
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		return nil, fmt.Errorf("the stream holds what is no %T: %w", v, err)
	}
	return v, nil
}

// refusal is the error of an answer that is no stream.
func refusal(door string, run Key, resp *http.Response) error {
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxError))
	if err != nil {
		return err
	}
	cause := answered(resp, raw)
	if resp.StatusCode >= http.StatusMultipleChoices && resp.StatusCode < http.StatusBadRequest {
		return &RefusedError{Door: door, Cause: cause, Advice: noDoor}
	}
	switch resp.StatusCode {
	case http.StatusNotFound:
		// A server that does not know the path answers in plain text.
		if !isStatus(raw) {
			return &RefusedError{Door: door, Cause: cause, Advice: noDoor}
		}
		return apierrors.NewNotFound(resource, run.Name)
	case http.StatusUnauthorized:
		return &RefusedError{Door: door, Cause: cause, Advice: "It does not take your credentials: look after the user of your kubeconfig, or give --stream-token-file."}
	case http.StatusForbidden:
		return &RefusedError{Door: door, Cause: cause, Everywhere: true, Advice: fmt.Sprintf("You lack the role chatrun-stream-reader (or view) in the namespace. Who may give it runs:\n"+
			"  kubectl -n %s create rolebinding chatrun-stream-reader-you --clusterrole=chatrun-stream-reader --user=YOU", run.Namespace)}
	case http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable:
		return &RefusedError{Door: door, Cause: cause, Advice: noDoor}
	default:
		return cause
	}
}

// isStatus says whether an answer is in Kubernetes' own form.
func isStatus(raw []byte) bool {
	var status metav1.Status
	return json.Unmarshal(raw, &status) == nil && status.Kind == "Status"
}

// answered is what an answer says: the message of its Status, or its first line.
func answered(resp *http.Response, raw []byte) error {
	var status metav1.Status
	if json.Unmarshal(raw, &status) == nil && status.Message != "" {
		return fmt.Errorf("%s (%s)", status.Message, resp.Status)
	}
	line, _, _ := bytes.Cut(bytes.TrimSpace(raw), []byte("\n"))
	return errors.New(strings.TrimSpace(resp.Status + " " + string(line[:min(len(line), maxWords)])))
}
