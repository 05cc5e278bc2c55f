// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package streamer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

// replica is one of several, in a process with the others.
type replica struct {
	hub     *Hub
	source  *shelf
	handler *Handler
	relay   http.Handler
}

// replicas are Peers by name. Their connections are pipes.
type replicas struct {
	mu    sync.Mutex
	all   map[string]*replica
	opens []string // owner and cursor of each Open
	// down is what Open fails with; nil if it works.
	down error
	// cut, if above 0, ends each connection after so many bytes.
	cut int
	// open are the connections of this moment.
	open int
}

func newReplicas(names ...string) *replicas {
	r := &replicas{all: map[string]*replica{}}
	for _, name := range names {
		one := &replica{hub: NewHub(), source: &shelf{view: pendingView()}}
		one.handler = NewHandler(one.hub, one.source, Anyone)
		one.handler.Peers = r
		one.relay = one.handler.Relay(Anyone)
		r.all[name] = one
	}
	return r
}

func (r *replicas) set(change func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
}

func (r *replicas) opened() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.opens...)
}

func (r *replicas) connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open
}

// owned tells all replicas whose run it is.
func (r *replicas) owned(owner string, v View) {
	for name, one := range r.all {
		mine := v
		if !v.Finished && name != owner {
			mine.Owner = owner
		}
		one.source.put(mine, nil)
	}
}

// Open implements Peers.
func (r *replicas) Open(ctx context.Context, owner string, run Run, after string) (io.ReadCloser, error) {
	r.mu.Lock()
	r.opens = append(r.opens, owner+" "+after)
	peer, down, cut := r.all[owner], r.down, r.cut
	r.mu.Unlock()
	if down != nil {
		return nil, down
	}
	if peer == nil {
		return nil, errors.New("nobody is there")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, RelayPath+run.Namespace+"/chatruns/"+run.Name+"?uid="+run.UID, nil)
	if err != nil {
		return nil, err
	}
	if after != "" {
		request.Header.Set("Last-Event-ID", after)
	}
	from, to := io.Pipe()
	w := &pipeWriter{header: http.Header{}, to: to, code: make(chan int, 1), cut: cut}
	r.set(func() { r.open++ })
	go func() {
		defer r.set(func() { r.open-- })
		peer.relay.ServeHTTP(w, request)
		_ = to.Close()
	}()
	select {
	case code := <-w.code:
		if code == http.StatusOK {
			return from, nil
		}
		_ = from.Close()
		if code == http.StatusMisdirectedRequest || code == http.StatusNotFound {
			return nil, ErrNotOwner
		}
		return nil, fmt.Errorf("code %d", code)
	case <-ctx.Done():
		_ = from.Close()
		return nil, ctx.Err()
	}
}

// pipeWriter is a ResponseWriter into a pipe.
type pipeWriter struct {
	header http.Header
	to     *io.PipeWriter
	code   chan int
	cut    int
	wrote  int
}

func (w *pipeWriter) Header() http.Header { return w.header }

func (w *pipeWriter) WriteHeader(code int) { w.code <- code }

func (w *pipeWriter) Flush() {}

func (w *pipeWriter) Write(b []byte) (int, error) {
	if w.cut > 0 && w.wrote+len(b) > w.cut {
		n, _ := w.to.Write(b[:w.cut-w.wrote])
		_ = w.to.CloseWithError(io.ErrUnexpectedEOF)
		return n, io.ErrClosedPipe
	}
	w.wrote += len(b)
	return w.to.Write(b)
}

// attend starts a reader, and returns what it is written to and its end.
func (r *replica) attend(ctx context.Context, target, last string) (*recorder, <-chan struct{}) {
	w, done := newRecorder(), make(chan struct{})
	q := request(ctx, last)
	u, err := q.URL.Parse(target)
	if err != nil {
		panic(err)
	}
	q.URL = u
	go func() {
		defer close(done)
		defer func() {
			if v := recover(); v != nil && v != http.ErrAbortHandler { //nolint:errorlint // as net/http compares it
				panic(v)
			}
		}()
		r.handler.ServeHTTP(w, q)
	}()
	return w, done
}

// framesOf returns the frames with an id, in their bytes.
func framesOf(raw string) []string {
	var all []string
	for block := range strings.SplitSeq(raw, "\n\n") {
		if strings.HasPrefix(block, "id: ") && !strings.Contains(strings.SplitN(block, "\n", 2)[0], "-0") {
			all = append(all, block)
		}
	}
	return all
}

// play plays a run of three attempts on a hub. step is called after each frame.
func play(hub *Hub, step func(int)) (end End, want string) {
	n := 0
	next := func() { step(n); n++ }
	for attempt := int32(1); attempt <= 3; attempt++ {
		hub.Begin(hello, statusOf(hello, "Streaming", attempt))
		next()
		want = ""
		for i := range 4 {
			s := fmt.Sprintf("word %d of %d; ", i, attempt)
			want += s
			hub.Part(hello.UID, attempt, text(s))
			next()
		}
		if attempt < 3 {
			hub.Retry(hello, statusOf(hello, "Retrying", attempt), retryOf(attempt))
			next()
		}
	}
	hub.Title(hello, "A title")
	next()
	end = endOf(hello, "Succeeded", 3)
	end.Done.Bytes = int64(len(want))
	hub.Finish(hello, end)
	next()
	return end, want
}
