// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"chatrun.dev/operator/api/stream"
)

// Defaults of a Handler's times.
const (
	// DefaultMinInterval is half the time between two parts of a fast model, so that
	// those do not wait for each other, and long against the 9 µs of a system call:
	// most of what a reader costs is the number of writes.
	DefaultMinInterval = 10 * time.Millisecond
	// DefaultHeartbeat is below the idle limits of common proxies, 30 s and more.
	DefaultHeartbeat = 15 * time.Second
	// DefaultWriteTimeout is what a reader may take for one write, of 64 KiB at
	// most, into a socket that has a buffer of its own.
	DefaultWriteTimeout = 10 * time.Second
	// DefaultMaxReaders is some 500 MB of connections over HTTPS.
	DefaultMaxReaders = 10_000
	// DefaultMaxReadersPerRun leaves room for other runs while one is popular.
	DefaultMaxReadersPerRun = 5_000
)

var (
	// ErrNotFound says that there is no such run.
	ErrNotFound = errors.New("run not found")
	// ErrNotWatched says that no run of this namespace is known here.
	ErrNotWatched = errors.New("namespace not watched")
	// ErrBusy says that too many long answers are being read.
	ErrBusy = errors.New("too many long answers are being read")
)

// View is what is known of a run beside its log.
type View struct {
	Run    Run
	Status stream.Status
	// Retry is the one that is pending; nil if none is.
	Retry *stream.Retry
	// Owner is the replica that has the run, or will have it; empty is this one. It
	// is empty of a run that is finished.
	Owner string
	// Finished says that the run is over; the fields below are set only then.
	Finished bool
	// Text is the answer, or what is kept of it. It is not there yet if Load is
	// set, which brings it, and is called only if it is needed. It may be called at
	// any time while the request lives; ErrNotFound, of a run that went meanwhile, is
	// answered with 404, ErrBusy and any other error with 503, and not shown. release is to be called once the text is not needed
	// any more, and is never nil if err is.
	Text  string
	Load  func(context.Context) (text string, release func(), err error)
	Title string
	End   End
}

// load sees to it that the text is there. A text of which less is there than was
// streamed is one that is cut, whatever became of the rest.
func (v *View) load(ctx context.Context) (release func(), err error) {
	if v.Load == nil {
		return func() {}, nil
	}
	v.Text, release, err = v.Load(ctx)
	if err != nil {
		return nil, err
	}
	v.Load = nil
	if int64(len(v.Text)) < v.End.Done.Bytes {
		v.End.Done.Truncated = true
	}
	return release, nil
}

// Source answers for what no log knows: runs that are finished, waiting, or
// were begun by another process.
type Source interface {
	// Find returns the run that has this name at present, or ErrNotFound, or
	// ErrNotWatched. Any
	// other error is answered with 503 and not shown: Find logs it itself.
	Find(ctx context.Context, namespace, name string) (View, error)
	// Created returns a channel that receives a value after a run of this name
	// was created, and perhaps at other times. The second result ends that, and
	// is to be called.
	Created(namespace, name string) (<-chan struct{}, func())
}

// Handler serves the streams of runs, in all formats, to those whom its guard
// admits: docs/streaming.md lists the paths. Its exported fields may be changed
// before it serves the first request.
//
// A stream ends after `done`, when the run is deleted, when the hub is closed,
// and with the context of its request, so with a server's BaseContext as well.
type Handler struct {
	// MinInterval is the least time between two writes to one reader, unless a
	// retry or the end is to be told; 0 writes every frame at once, but for parts of a
	// run that a crowd reads, which wait for each other in any case.
	MinInterval time.Duration
	// Heartbeat is the silence after which a comment is sent; above 0.
	Heartbeat time.Duration
	// WriteTimeout is how long one write may take. A reader that does not read
	// is cut then, and can resume; above 0.
	WriteTimeout time.Duration

	// MaxReaders and MaxReadersPerRun bound the readers that are served, or wait
	// for a run, at one time. Further ones are answered with 429. 0 is no bound. One
	// namespace gets three quarters of MaxReaders at most.
	MaxReaders, MaxReadersPerRun int

	// Lister is asked for the runs of a namespace. nil: they are not listed.
	Lister Lister

	// Peers are asked for the runs that they have. nil: there are none.
	Peers Peers
	// MaxRelays bounds the runs that other replicas read here at one time, all
	// counted. Further ones are answered with 429. 0 is no bound.
	MaxRelays int

	// OwnerLimit is how long the owner of a run, which is another replica, may not be
	// reached until its readers are told so; above 0.
	OwnerLimit time.Duration

	hub    *Hub
	source Source
	guard  Guard
	seats  seats
	relays seats
	counts counts
	lists  chan struct{}
	mux    *http.ServeMux
}

// NewHandler returns a handler with the default times and bounds.
func NewHandler(hub *Hub, source Source, guard Guard) *Handler {
	h := &Handler{
		MinInterval: DefaultMinInterval, Heartbeat: DefaultHeartbeat, WriteTimeout: DefaultWriteTimeout,
		MaxReaders: DefaultMaxReaders, MaxReadersPerRun: DefaultMaxReadersPerRun, OwnerLimit: DefaultOwnerLimit,
		MaxRelays: DefaultMaxReaders,
		hub:       hub, source: source, guard: guard, seats: newSeats(), relays: newSeats(), mux: http.NewServeMux(),
		lists: make(chan struct{}, maxLists),
	}
	run := "/v1/namespaces/{namespace}/chatruns/{name}"
	route(h.mux, run+"/stream", h.read(true), http.MethodGet, http.MethodHead)
	// The API server proxies to this one, and pods have its like.
	route(h.mux, "/apis/stream.chatrun.dev/v1alpha1/namespaces/{namespace}/chatruns/{name}/log", h.read(false), http.MethodGet, http.MethodHead)
	route(h.mux, run+"/chat/completions", h.complete, http.MethodPost)
	route(h.mux, run+"/ticket", h.issue, http.MethodPost)
	h.mux.HandleFunc("/v1/namespaces/{namespace}/chatruns", h.list)
	h.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusNotFound, "NotFound", "no such path; streams are at "+run+"/stream")
	})
	return h
}

// route serves a path that names a run.
func route(mux *http.ServeMux, path string, serve func(http.ResponseWriter, *http.Request, name), methods ...string) {
	allowed := strings.Join(methods, ", ")
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(methods, r.Method) {
			w.Header().Set("Allow", allowed)
			refuse(w, http.StatusMethodNotAllowed, "MethodNotAllowed", "this path allows "+allowed)
			return
		}
		// Not before: the mux does not clean the paths of a CONNECT, and PathValue
		// panics at some of them.
		run := name{r.PathValue("namespace"), r.PathValue("name")}
		if !isLabel(run.namespace) || !isSubdomain(run.name) {
			refuse(w, http.StatusBadRequest, "BadRequest", "the namespace or the name is not one that an object can have")
			return
		}
		serve(w, r, run)
	})
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.mux.ServeHTTP(w, r) }

// replacements is how often a run may be deleted and created again between two
// looks at it before the request is refused.
const replacements = 3

// issue lets the guard issue a ticket.
func (h *Handler) issue(w http.ResponseWriter, r *http.Request, run name) {
	h.guard.Issue(w, r, run.namespace, run.name)
}

// read serves a stream, which is followed to its end by default or not.
func (h *Handler) read(follow bool) func(http.ResponseWriter, *http.Request, name) {
	return func(w http.ResponseWriter, r *http.Request, run name) {
		h.seat(w, r, run, func() {
			q, err := parseQuery(r, follow)
			if err != nil {
				refuse(w, http.StatusBadRequest, "BadRequest", err.Error())
				return
			}
			h.serve(w, r, run, q)
		})
	}
}

// complete serves a run to clients of OpenAI's API.
func (h *Handler) complete(w http.ResponseWriter, r *http.Request, run name) {
	h.seat(w, r, run, func() {
		q, err := parseQuery(r, true)
		code := http.StatusBadRequest
		if err == nil {
			code, err = readQuestion(w, r, &q)
		}
		if err != nil {
			refuse(w, code, reasonOf(code), err.Error())
			return
		}
		h.serve(w, r, run, q)
	})
}

// seat lets a reader in whom the guard admits, if there is room.
func (h *Handler) seat(w http.ResponseWriter, r *http.Request, run name, serve func()) {
	if !h.guard.Admit(w, r, run.namespace, run.name) {
		return
	}
	if !h.seats.take(run, h.MaxReaders, h.MaxReadersPerRun) {
		h.counts.refusedReaders.Add(1)
		w.Header().Set("Retry-After", retryAfter)
		refuse(w, http.StatusTooManyRequests, "TooManyRequests", "too many readers of this run, or in all: try again later")
		return
	}
	defer h.seats.giveBack(run)
	serve()
}

// serve finds out who answers: the log of the run, or its view.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, run name, q query) {
	if q.format == formatText && !q.hold && !r.ProtoAtLeast(1, 1) {
		// There the end of the connection is the end of the answer: one that is
		// broken off would pass for a whole one.
		refuse(w, http.StatusHTTPVersionNotSupported, "HTTPVersionNotSupported",
			"text over HTTP/1.0 cannot tell a whole answer from one that was cut: let the proxy before this server speak HTTP/1.1, or ask with hold=true")
		return
	}
	until := time.Now().Add(q.wait)
	v, ok := h.await(w, r, run, until)
	if !ok {
		return
	}
	if q.format == formatEvents && q.after == endID(v.Run.UID) {
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if r.Method == http.MethodHead && (q.format == formatEvents || !v.Finished || succeeded(v.End)) {
		writeHeader(w, q.format)
		return
	}
	for range replacements {
		if v, ok = h.attend(w, r, v, q, until); !ok {
			return
		}
	}
	unavailable(w, "the run is being replaced: try again")
}

// attend registers at the run's log, and then reads the view that the stream
// begins with, so that nothing can happen between the two. It returns true,
// and has written nothing, if that is a view of another run, or one that the
// log was opened for in vain.
func (h *Handler) attend(w http.ResponseWriter, r *http.Request, v *View, q query, until time.Time) (*View, bool) {
	if v.Finished {
		// The log of a run that ended a moment ago knows more than its object.
		l := h.hub.joinWritten(v.Run)
		if l == nil {
			h.conclude(w, r, v, q)
			return nil, false
		}
		defer h.hub.leave(l)
		h.live(w, r, l, v, q)
		return nil, false
	}
	l := h.hub.join(v.Run)
	if l == nil {
		unavailable(w, "the server is shutting down: try again")
		return nil, false
	}
	defer h.hub.leave(l)
	now, ok := h.await(w, r, v.Run.key(), until)
	if !ok {
		return nil, false
	}
	if now.Run.UID != v.Run.UID || now.Finished {
		return now, true
	}
	if h.Peers == nil && now.Owner != "" && !h.hub.written(l) {
		unavailable(w, "replica "+now.Owner+" has this run, or will, and this one does not relay: ask that one")
		return nil, false
	}
	if h.mirror(l, now) && !h.settle(w, r, l, q) {
		return nil, false
	}
	h.live(w, r, l, now, q)
	return nil, false
}

// live streams from the log of a run.
func (h *Handler) live(w http.ResponseWriter, r *http.Request, l *log, v *View, q query) {
	if q.format == formatEvents {
		h.follow(w, r, l, v, q)
	} else {
		h.narrate(w, r, l, v, q)
	}
}

// conclude streams from the view of a finished run.
func (h *Handler) conclude(w http.ResponseWriter, r *http.Request, v *View, q query) {
	if q.format == formatEvents {
		h.answer(w, r, v, q)
	} else {
		h.narrator(w, r, v, q).conclude(v)
	}
}

// await asks the source for a run, which may be waited for, and refuses the
// request if it has no answer by then.
func (h *Handler) await(w http.ResponseWriter, r *http.Request, run name, until time.Time) (*View, bool) {
	wait := time.Until(until)
	if wait <= 0 {
		v, err := h.source.Find(r.Context(), run.namespace, run.name)
		return h.found(w, run, &v, err)
	}
	// Registered before the first look, so that nothing is missed between them.
	created, stop := h.source.Created(run.namespace, run.name)
	defer stop()
	over := time.NewTimer(wait)
	defer over.Stop()
	for {
		v, err := h.source.Find(r.Context(), run.namespace, run.name)
		if !errors.Is(err, ErrNotFound) {
			return h.found(w, run, &v, err)
		}
		select {
		case <-created:
		case <-over.C:
			return h.found(w, run, &v, err)
		case <-h.hub.closing.Done():
			unavailable(w, "the server is shutting down: try again")
			return nil, false
		case <-r.Context().Done():
			// To return would be to answer 200.
			panic(http.ErrAbortHandler)
		}
	}
}

func (h *Handler) found(w http.ResponseWriter, run name, v *View, err error) (*View, bool) {
	switch {
	case err == nil:
		return v, true
	case errors.Is(err, ErrNotFound):
		code, reason, message := notThere(run.name)
		refuse(w, code, reason, message)
	case errors.Is(err, ErrNotWatched):
		refuse(w, http.StatusNotFound, "NotFound", "this manager does not watch the namespace \""+run.namespace+"\": ask the one that does")
	default:
		unavailable(w, "the run could not be looked up: try again")
	}
	return nil, false
}
