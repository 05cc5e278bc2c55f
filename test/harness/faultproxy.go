// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// maxProxiedBody is the largest write that is read: what etcd takes at most.
const maxProxiedBody = 1536 << 10

// Faults says what a FaultProxy does. Shares are of 1, and apply to what is asked
// about ChatRuns, ChatProviders, ConfigMaps and Events; all else passes untouched.
type Faults struct {
	// Refuse is the share of writes that are answered with 429, 500 or 503, and
	// not forwarded.
	Refuse float64
	// Lose is the share of writes that are forwarded, and whose answer is then
	// replaced: by a 5xx or by a cut connection.
	Lose float64
	// Delay is the share of writes that wait up to MaxDelay before they are
	// forwarded, or before they are answered.
	Delay    float64
	MaxDelay time.Duration
	// RefuseRead is the share of reads that are answered with 500 or 503.
	RefuseRead float64
	// ConflictEvery refuses every n-th status write with a conflict; 0 does not.
	ConflictEvery int
	// ConflictFirst refuses with a conflict the first write of each status onto
	// each version of an object.
	ConflictFirst bool
	// HoldAfterCreate holds back the status writes that follow the first create of a
	// ConfigMap, for as long as their clients wait.
	HoldAfterCreate bool
	// Watch is what happens to watches.
	Watch WatchFaults
}

// FaultCounts are what a FaultProxy did.
type FaultCounts struct {
	// StatusWrites is how many status writes of ChatRuns came, whatever became of
	// them, and Applied how many the API server accepted.
	StatusWrites, Applied int
	// Refused, Lost, Conflicts and Delayed count writes; RefusedReads reads.
	// LostApplied is how many of the lost ones stand.
	Refused, Lost, LostApplied, Conflicts, Delayed, RefusedReads int
	// Created is how many ConfigMaps were, and Held how many status writes wait or
	// waited for ever.
	Created, Held int
	// RealConflicts is how many conflicts the API server itself found.
	RealConflicts int
	// WatchCuts counts watches, the others lines of watches.
	WatchCuts, Doubled, Swapped, Late int
}

func (c FaultCounts) String() string {
	return fmt.Sprintf("%d status writes, %d applied; %d ConfigMaps created; writes: %d refused, %d with a lost answer (%d of them stand), %d conflicts injected, %d real, "+
		"%d delayed; %d reads refused; %d watches cut; events: %d doubled, %d swapped, %d late",
		c.StatusWrites, c.Applied, c.Created, c.Refused, c.Lost, c.LostApplied, c.Conflicts, c.RealConflicts,
		c.Delayed, c.RefusedReads, c.WatchCuts, c.Doubled, c.Swapped, c.Late)
}

// FaultProxy stands between a manager and the API server. It speaks plain HTTP
// on loopback, and to the API server with the manager's own certificate.
type FaultProxy struct {
	faults  Faults
	server  *httptest.Server
	forward *httputil.ReverseProxy

	mu sync.Mutex
	// cut is closed when the link heals; nil while it is whole.
	cut    chan struct{}
	dice   *rand.Rand
	counts FaultCounts
	tried  map[string]bool
}

// StartFaultProxy starts one before the API server of cfg. What it does is
// drawn by seed; which request meets which fault depends on their order, too.
func StartFaultProxy(cfg *rest.Config, seed uint64, faults Faults) (*FaultProxy, error) {
	target, err := url.Parse(cfg.Host)
	if err != nil {
		return nil, err
	}
	if target.Scheme == "" {
		target.Scheme, target.Host, target.Path = "https", cfg.Host, ""
	}
	transport, err := rest.TransportFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("making the proxy's transport: %w", err)
	}
	p := &FaultProxy{faults: faults, dice: rand.New(rand.NewPCG(seed, 0)), tried: map[string]bool{}}
	p.forward = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Header.Set("Accept-Encoding", "identity") // the lines of a watch are read here
		},
		Transport:      transport,
		FlushInterval:  -1,
		ErrorLog:       log.New(io.Discard, "", 0), // a killed manager breaks connections
		ModifyResponse: p.modify,
	}
	p.server = httptest.NewServer(p)
	return p, nil
}

// Kubeconfig writes a kubeconfig that leads to the proxy.
func (p *FaultProxy) Kubeconfig(path string) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["faulty"] = &clientcmdapi.Cluster{Server: p.server.URL}
	config.Contexts["faulty"] = &clientcmdapi.Context{Cluster: "faulty"}
	config.CurrentContext = "faulty"
	raw, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	return os.WriteFile(path, raw, 0o600)
}

// Config leads to the proxy.
func (p *FaultProxy) Config() *rest.Config { return &rest.Config{Host: p.server.URL, QPS: -1} }

// Counts returns what happened so far.
func (p *FaultProxy) Counts() FaultCounts {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.counts
}

// Close cuts every connection.
func (p *FaultProxy) Close() {
	p.server.CloseClientConnections()
	p.server.Close()
}

// ServeHTTP forwards a request, or what the dice make of it.
func (p *FaultProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !p.whole(r) {
		panic(http.ErrAbortHandler) // it never arrived
	}
	switch {
	case !concerned(r.URL.Path), isWatch(r):
		p.forward.ServeHTTP(w, r)
	case r.Method == http.MethodGet:
		if p.roll(p.faults.RefuseRead) {
			p.count(func(c *FaultCounts) { c.RefusedReads++ })
			answer(w, p.pick(unavailable, broken))
			return
		}
		p.forward.ServeHTTP(w, r)
	default:
		p.write(w, r)
	}
}

func concerned(path string) bool {
	return strings.HasPrefix(path, "/apis/chatrun.dev/") && strings.Contains(path, "/chat") ||
		strings.HasPrefix(path, "/apis/events.k8s.io/") || isConfigMap(path)
}

func isConfigMap(path string) bool {
	return strings.HasPrefix(path, "/api/v1/namespaces/") && strings.Contains(path, "/configmaps")
}

func isStatusWrite(r *http.Request) bool {
	return strings.Contains(r.URL.Path, "/chatruns/") && strings.HasSuffix(r.URL.Path, "/status")
}

// write lets a write meet at most one fault.
func (p *FaultProxy) write(w http.ResponseWriter, r *http.Request) {
	status := isStatusWrite(r)
	if status {
		p.count(func(c *FaultCounts) { c.StatusWrites++ })
	}
	if status && p.faults.HoldAfterCreate && p.Counts().Created > 0 {
		p.count(func(c *FaultCounts) { c.Held++ })
		// The end of the client shows once its body is read.
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
		return
	}
	if status && p.conflicts(r) {
		answer(w, conflict)
		return
	}
	switch {
	case p.roll(p.faults.Refuse):
		p.count(func(c *FaultCounts) { c.Refused++ })
		answer(w, p.pick(tooMany, tooManyWait, broken, unavailable, gatewayPage))
	case p.roll(p.faults.Lose):
		sink := &sink{header: http.Header{}}
		p.pass(sink, r, status)
		p.count(func(c *FaultCounts) {
			c.Lost++
			if sink.code < http.StatusBadRequest {
				c.LostApplied++
			}
		})
		fate := p.pick(timedOut, broken, gatewayPage, unavailableWait, refusal{})
		if fate.code == 0 {
			panic(http.ErrAbortHandler) // cuts the connection
		}
		answer(w, fate)
	case p.roll(p.faults.Delay):
		p.count(func(c *FaultCounts) { c.Delayed++ })
		delay := p.upTo(p.faults.MaxDelay)
		if p.roll(0.5) {
			pause(delay, r.Context().Done())
			p.pass(w, r, status)
			return
		}
		held := httptest.NewRecorder()
		p.pass(held, r, status)
		pause(delay, r.Context().Done())
		copyAnswer(w, held)
	default:
		p.pass(w, r, status)
	}
}

// pass forwards a write, and counts what the API server made of it.
func (p *FaultProxy) pass(w http.ResponseWriter, r *http.Request, status bool) {
	noted := &noted{ResponseWriter: w}
	p.forward.ServeHTTP(noted, r)
	p.count(func(c *FaultCounts) {
		switch {
		case noted.code == http.StatusConflict:
			c.RealConflicts++
		case status && noted.code < http.StatusBadRequest:
			c.Applied++
		case isConfigMap(r.URL.Path) && noted.code == http.StatusCreated:
			c.Created++
		}
	})
}

// conflicts says whether this status write is refused with a conflict.
func (p *FaultProxy) conflicts(r *http.Request) bool {
	if p.faults.ConflictEvery == 0 && !p.faults.ConflictFirst {
		return false
	}
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxProxiedBody))
	if err != nil {
		return false // the client went away
	}
	r.Body = io.NopCloser(bytes.NewReader(raw))
	var body struct {
		Metadata struct{ ResourceVersion string }
	}
	// A body without a version is for the API server to judge.
	_ = json.Unmarshal(raw, &body)
	version := r.URL.Path + "@" + body.Metadata.ResourceVersion

	p.mu.Lock()
	defer p.mu.Unlock()
	first := p.faults.ConflictFirst && !p.tried[version]
	p.tried[version] = true
	if first || (p.faults.ConflictEvery > 0 && p.counts.StatusWrites%p.faults.ConflictEvery == 0) {
		p.counts.Conflicts++
		return true
	}
	return false
}

// refusal is an answer of our own.
type refusal struct {
	code       int
	retryAfter string
	// page answers as a gateway does that knows no Kubernetes.
	page   bool
	status metav1.Status
}

var (
	tooMany         = refusal{code: http.StatusTooManyRequests, status: apierrors.NewTooManyRequestsError("injected").Status()}
	tooManyWait     = refusal{code: http.StatusTooManyRequests, retryAfter: "1", status: apierrors.NewTooManyRequestsError("injected").Status()}
	broken          = refusal{code: http.StatusInternalServerError, status: apierrors.NewInternalError(errors.New("injected")).Status()}
	unavailable     = refusal{code: http.StatusServiceUnavailable, status: apierrors.NewServiceUnavailable("injected").Status()}
	unavailableWait = refusal{code: http.StatusServiceUnavailable, retryAfter: "1", status: apierrors.NewServiceUnavailable("injected").Status()}
	timedOut        = refusal{code: http.StatusGatewayTimeout, status: apierrors.NewTimeoutError("injected", 0).Status()}
	gatewayPage     = refusal{code: http.StatusBadGateway, page: true}
	conflict        = refusal{code: http.StatusConflict, status: apierrors.NewConflict(schema.GroupResource{Resource: "chatruns"}, "any", errors.New("injected")).Status()}
)

func answer(w http.ResponseWriter, r refusal) {
	if r.retryAfter != "" {
		w.Header().Set("Retry-After", r.retryAfter)
	}
	if r.page {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(r.code)
		_, _ = io.WriteString(w, "<html><body>Bad Gateway</body></html>") // the client's loss
		return
	}
	r.status.TypeMeta = metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(r.code)
	_ = json.NewEncoder(w).Encode(r.status) // the client's loss
}

func copyAnswer(w http.ResponseWriter, from *httptest.ResponseRecorder) {
	maps.Copy(w.Header(), from.Header())
	w.WriteHeader(from.Code)
	_, _ = w.Write(from.Body.Bytes()) // the client's loss
}

// noted remembers the status code that passes.
type noted struct {
	http.ResponseWriter
	code int
}

// WriteHeader implements http.ResponseWriter.
func (n *noted) WriteHeader(code int) {
	n.code = code
	n.ResponseWriter.WriteHeader(code)
}

// Unwrap lets the proxy flush.
func (n *noted) Unwrap() http.ResponseWriter { return n.ResponseWriter }

// sink is an answer that reaches nobody.
type sink struct {
	header http.Header
	code   int
}

// Header implements http.ResponseWriter.
func (s *sink) Header() http.Header { return s.header }

// WriteHeader implements http.ResponseWriter.
func (s *sink) WriteHeader(code int) { s.code = code }

// Write implements http.ResponseWriter.
func (s *sink) Write(b []byte) (int, error) { return len(b), nil }

func (p *FaultProxy) count(change func(*FaultCounts)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(&p.counts)
}

func (p *FaultProxy) roll(share float64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dice.Float64() < share
}

func (p *FaultProxy) pick(among ...refusal) refusal {
	p.mu.Lock()
	defer p.mu.Unlock()
	return among[p.dice.IntN(len(among))]
}

func (p *FaultProxy) upTo(d time.Duration) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Duration(p.dice.Int64N(int64(max(d, 1))))
}

// pause waits, or until done is closed.
func pause(d time.Duration, done <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-done:
	}
}
