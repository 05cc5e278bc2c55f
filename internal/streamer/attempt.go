// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"

	"chatrun.dev/operator/internal/chatretry"
	"chatrun.dev/operator/internal/provider"
)

// MaxAnswerBytes bounds the text that is kept and streamed of one attempt. No
// model writes as much today (16 MiB are some four million tokens); a server
// gone mad must not take the manager's memory.
const MaxAnswerBytes = 16 << 20

// TitleTimeout bounds the request for a title, all its retries included.
const TitleTimeout = 30 * time.Second

// Attempt is one call to make.
type Attempt struct {
	Run Run
	// Number is from 1, and above that of every attempt of the run before.
	Number int32
	// Pass is what Pool.Pass returned before it was decided to make the attempt.
	Pass     int
	Endpoint provider.Endpoint
	Request  provider.Request
	// IdleTimeout is the silence allowed before the first part and between
	// parts; 0 allows any. Only a part breaks the silence: keep-alives do not.
	IdleTimeout time.Duration
	// Title asks for a title; nil if none is wanted. It is called at most once a
	// run and process, in a goroutine of its own, beside the first part of the
	// first attempt that has one. Its context ends after TitleTimeout, on Stop
	// and Drop, and on Shutdown.
	Title func(context.Context) (string, error)
	// Begun is told that the provider took the attempt: its first part, of text or
	// reasoning, is there. It is called once at most, and must not block; nil is
	// told nothing.
	Begun func()
	// Ended is told how it ended, before anybody else can know. It must not block;
	// nil is told nothing.
	Ended func(*Outcome)
}

// Outcome is how an attempt ended. It does not change once it is there.
type Outcome struct {
	Attempt int32
	// Text is what was streamed, without reasoning, at most MaxAnswerBytes. It is
	// there for a failed or cancelled attempt as well.
	Text string
	// Bytes is the size of the whole text, also of what was not kept.
	Bytes int64
	// FinishReason is empty unless the outcome is good.
	FinishReason provider.FinishReason
	// Usage is what the provider reported, also with a failure.
	Usage provider.Usage
	// Started and Ended are when the call was made and when it was over, FirstPart when
	// the first part came, of text or reasoning; zero if none did.
	Started, FirstPart, Ended time.Time
	// Called is who was asked.
	Called Called
	// Failure is set if the attempt failed by itself.
	Failure *chatretry.Failure
	// Cause is set if we ended the attempt: one of this package's causes.
	Cause error
}

// Called is who an attempt asked, without what is secret of it.
type Called struct {
	Type  provider.Type
	Model string
	// Server is the host of the endpoint, with its port if the URL names one.
	Server string
}

// Good reports whether the answer is complete.
func (o *Outcome) Good() bool { return o.Failure == nil && o.Cause == nil }

// attempt makes the call and says how it ended.
func (p *Pool) attempt(ctx context.Context, cancel context.CancelCauseFunc, e *entry, a *Attempt) *Outcome {
	var guard *time.Timer
	if a.IdleTimeout > 0 {
		// Armed before the call, so that a server which takes the request and
		// says nothing is caught as well.
		guard = time.AfterFunc(a.IdleTimeout, func() { cancel(errSilence) })
		defer guard.Stop()
	}
	var d draft
	started := time.Now()
	result, err := call(ctx, p.caller, a, func(part provider.Part) {
		if guard != nil {
			guard.Reset(a.IdleTimeout)
		}
		if d.first.IsZero() {
			d.first = time.Now()
			if a.Begun != nil {
				a.Begun()
			}
			p.askTitle(ctx, e, a.Title)
		}
		if part, ok := d.add(part); ok {
			p.hub.Part(a.Run.UID, a.Number, part)
		}
	})
	o := &Outcome{
		Attempt: a.Number, Text: d.text.String(), Bytes: d.bytes,
		Usage: result.Usage, Started: started, FirstPart: d.first, Ended: time.Now(),
		Called: Called{Type: a.Endpoint.Type, Model: a.Request.Model, Server: a.Endpoint.Server()},
	}
	if err == nil {
		// Also if our cancel came meanwhile: the answer is complete and paid for.
		o.FinishReason = result.FinishReason
		return o
	}
	o.Failure, o.Cause = judge(err, context.Cause(ctx), a)
	return o
}

// call is Caller.Stream, with a panic as an error: a bug in the client, or a
// server that found one, costs this attempt and not the manager.
func call(ctx context.Context, c provider.Caller, a *Attempt, part func(provider.Part)) (_ provider.Result, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &chatretry.Failure{
				Class:   chatretry.ServerError,
				Message: "the operator's provider client broke on this answer",
				Err:     fmt.Errorf("panic: %v\n%s", r, debug.Stack()),
			}
		}
	}()
	return c.Stream(ctx, a.Endpoint, a.Request, part)
}

// judge says whether a call that returned err failed by itself or was ended by
// us. cause is that of the attempt's context, nil while it has not ended: once
// it has, whatever error came is its echo.
func judge(err, cause error, a *Attempt) (*chatretry.Failure, error) {
	if errors.Is(cause, errSilence) {
		return &chatretry.Failure{
			Class: chatretry.Timeout,
			Message: fmt.Sprintf("no part of the answer came from provider %q for %s: raise the run's streamIdleTimeoutSeconds if the model needs longer",
				a.Endpoint.Name, a.IdleTimeout),
			Err: errSilence,
		}, nil
	}
	if cause != nil {
		return nil, cause
	}
	if f, ok := errors.AsType[*chatretry.Failure](err); ok {
		return f, nil
	}
	return &chatretry.Failure{
		Class:   chatretry.ConnectionError,
		Message: fmt.Sprintf("the connection to provider %q failed: check baseURL and the network", a.Endpoint.Name),
		Err:     err,
	}, nil
}

// draft gathers the parts of one attempt.
type draft struct {
	text  strings.Builder
	bytes int64
	first time.Time
}

// add keeps a part, and returns what of it may be streamed: valid UTF-8, so
// that what is stored and what JSON carries are the same bytes, and nothing
// beyond MaxAnswerBytes, so that the stream ends where the stored text does.
func (d *draft) add(part provider.Part) (provider.Part, bool) {
	part.Text = strings.ToValidUTF8(part.Text, string(utf8.RuneError))
	if part.Kind == provider.Reasoning {
		return part, part.Text != ""
	}
	room := MaxAnswerBytes - d.text.Len()
	if d.bytes > int64(d.text.Len()) {
		room = 0 // something was cut off already; what follows would not join
	}
	d.bytes += int64(len(part.Text))
	if len(part.Text) > room {
		for room > 0 && !utf8.RuneStart(part.Text[room]) {
			room--
		}
		part.Text = part.Text[:room]
	}
	d.text.WriteString(part.Text)
	return part, part.Text != ""
}

// askTitle starts the request for a title, unless one was made before or is
// not wanted any more.
func (p *Pool) askTitle(attempt context.Context, e *entry, ask func(context.Context) (string, error)) {
	if ask == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	// An attempt that was cancelled must not start one: Stop would miss it.
	if e.title.asked || attempt.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancelCause(p.ctx)
	e.title.asked, e.title.cancel = true, cancel
	p.work.Go(func() {
		defer cancel(nil)
		ctx, release := context.WithTimeout(ctx, TitleTimeout)
		defer release()
		if p.keepTitle(e, generate(ctx, ask)) {
			p.nudge(e.run)
		}
	})
}

// generate returns the title, or nothing: a title is best effort, and neither
// its failure nor its panic may reach the run.
func generate(ctx context.Context, ask func(context.Context) (string, error)) (text string) {
	defer func() {
		if recover() != nil {
			text = ""
		}
	}()
	text, err := ask(ctx)
	if err != nil {
		return ""
	}
	return text
}

func (p *Pool) keepTitle(e *entry, text string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.title.cancel, e.title.text = nil, text
	return p.entries[e.run.UID] == e
}
