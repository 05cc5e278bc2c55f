// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

// world is what stands for a person's machine and cluster: a clone of the repository, a
// control plane of which they are an admin, a registry, and somebody who answers.
//
// There are no nodes in it, and of Kubernetes' controllers only those that clean up. Where
// pages need the manager's pods, the manager runs as a process, with a token of its
// ServiceAccount.
type world struct {
	clone, logs string
	env         []string
	provider    *chattest.Server
	registry    string
	binary      string
	manager     *harness.Process
	// stream is where it answers readers, and own where that of `make run` does.
	stream, own string
}

// key is what the fake provider is asked with. It is none that anybody would take.
const key = "key-of-the-docs"

// needed are the programs that the typed commands need, but for those that are built here.
var needed = []string{"bash", "curl", "git", "grep", "make", "openssl", "sed", "tail"}

// newWorld makes one, in which nothing is installed.
func newWorld(t *testing.T) *world {
	t.Helper()
	var lacking []string
	for _, program := range needed {
		if _, err := exec.LookPath(program); err != nil {
			lacking = append(lacking, program)
		}
	}
	if len(lacking) > 0 {
		t.Fatalf("to type what the pages say, install %s", strings.Join(lacking, ", "))
	}
	plane, err := harness.StartControlPlane(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plane.Stop(); err != nil {
			t.Error(err)
		}
	})
	stop, err := plane.StartControllerManager(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	kubeconfig, err := plane.AdminKubeconfig()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{clone: clone(t), logs: t.TempDir()}
	if w.binary, err = harness.BuildManager(t.Context(), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	w.provider = chattest.Start(t, everyOther,
		chattest.Titles(chattest.Always(chattest.Answer("The Day of a Keeper"))), chattest.RequireKey(key))
	images := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(images.Close)
	w.registry = strings.TrimPrefix(images.URL, "http://")
	address, err := harness.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	w.own = "http://" + address
	w.env = append(environment(t, kubeconfig),
		"RUNFLAGS=--stream-bind-address="+address+" --health-probe-bind-address=0 --metrics-bind-address=0")
	w.pointSamples(t)
	t.Cleanup(w.stop)
	// The harness made the kinds, and a role; whoever begins has neither.
	w.must(t, "kubectl delete crd chatruns.chatrun.dev chatproviders.chatrun.dev && kubectl delete clusterrole,clusterrolebinding manager-role")
	return w
}

// answer is what the fake provider says at every other attempt.
const answer = "A lighthouse keeper lights the lamp at dusk and puts it out at dawn."

// atLength, in a question, is answered with more than fits into the object of a run.
const (
	atLength = "at length"
	tooLong  = 20_000
)

// everyOther lets each run be tried again once, so that pages can show it.
func everyOther(r chattest.Request) chattest.Response {
	switch {
	case strings.Contains(r.LastUser, atLength):
		return chattest.Answer(strings.Repeat(answer+" ", tooLong/len(answer)))
	case r.N%2 == 0:
		return chattest.Answer(chattest.Words(answer)...)
	case r.Vendor == chattest.Anthropic:
		return chattest.AnthropicOverloadedResponse()
	}
	return chattest.OpenAIErrorResponse(http.StatusServiceUnavailable, "server_error", "", "The engine is currently overloaded, please try again later")
}

// clone copies what a clone would hold, changes that are not committed included.
func clone(t *testing.T) string {
	t.Helper()
	list, err := exec.CommandContext(t.Context(), "git", "-C", root, "ls-files", "-z", "--cached", "--others", "--exclude-standard").Output()
	if err != nil {
		t.Fatalf("listing the files of the repository: %v", err)
	}
	dir := t.TempDir()
	for name := range strings.SplitSeq(strings.TrimRight(string(list), "\x00"), "\x00") {
		from, to := filepath.Join(root, name), filepath.Join(dir, name)
		info, err := os.Stat(from)
		if os.IsNotExist(err) {
			continue // deleted, and not committed
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, content, info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// passed on is what a command needs of this process' own environment: nothing that make
// or a person's shell has set.
var passedOn = []string{"GO", "CGO_", "CC", "KUBEBUILDER_ASSETS", "TEST_ASSET_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "https_proxy", "SSL_CERT_", "TMPDIR", "LANG", "LC_", "USER"}

// environment is that of a person who has kubectl with our plugins, helm, and this
// cluster in their kubeconfig.
func environment(t *testing.T, kubeconfig string) []string {
	t.Helper()
	bin, home := t.TempDir(), t.TempDir()
	absolute, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl"), filepath.Join(bin, "kubectl")); err != nil {
		t.Fatal(err)
	}
	// kubectl's plugins of this repository, as their pages have them installed.
	plugins, err := filepath.Glob(filepath.Join(absolute, "cmd", "kubectl-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range plugins {
		name := filepath.Base(dir)
		build := exec.CommandContext(t.Context(), "go", "build", "-C", dir, "-o", filepath.Join(bin, name), ".")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v\n%s", name, err, out)
		}
	}
	helm := "#!/bin/sh\nexec go tool -modfile='" + filepath.Join(absolute, "hack", "deploytools", "go.mod") + "' helm \"$@\"\n"
	if err := os.WriteFile(filepath.Join(bin, "helm"), []byte(helm), 0o700); err != nil {
		t.Fatal(err)
	}
	// Without a terminal curl would mix its progress into what it prints; and to it an
	// answer that says no is one as well.
	if err := os.WriteFile(filepath.Join(home, ".curlrc"), []byte("no-progress-meter\nfail-with-body\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + home, "KUBECONFIG=" + kubeconfig}
	for _, pair := range os.Environ() {
		for _, prefix := range passedOn {
			if strings.HasPrefix(pair, prefix) {
				env = append(env, pair)
			}
		}
	}
	// Without these Go would begin with empty caches in the new home, and the control
	// plane would be built again.
	caches, err := exec.CommandContext(t.Context(), "go", "env", "GOCACHE", "GOMODCACHE", "GOPATH", "GOENV").Output()
	if err != nil {
		t.Fatal(err)
	}
	values := strings.Split(strings.TrimRight(string(caches), "\n"), "\n")
	for i, name := range []string{"GOCACHE", "GOMODCACHE", "GOPATH", "GOENV"} {
		env = append(env, name+"="+values[i])
	}
	data := os.Getenv("XDG_DATA_HOME")
	if data == "" {
		data = filepath.Join(os.Getenv("HOME"), ".local", "share")
	}
	return append(env, "XDG_DATA_HOME="+data)
}

// pointSamples lets the providers of config/samples be the fake one, as those who use
// another server do.
func (w *world) pointSamples(t *testing.T) {
	t.Helper()
	for file, base := range map[string]string{"chatprovider_openai.yaml": w.provider.URL() + "/v1", "chatprovider_anthropic.yaml": w.provider.URL()} {
		path := filepath.Join(w.clone, "config", "samples", file)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		pointed := strings.Replace(string(raw), "  credentials:", "  baseURL: "+base+"\n  credentials:", 1)
		if pointed == string(raw) {
			t.Fatalf("%s: no place for a baseURL", file)
		}
		if err := os.WriteFile(path, []byte(pointed), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// must types a command that no page has.
func (w *world) must(t *testing.T, text string) string {
	t.Helper()
	out, err := newShell(t, w.clone, w.env).run(t.Context(), text)
	if err != nil {
		t.Fatalf("%s: %v\n%s", text, err, out)
	}
	return out
}

// start starts the manager in place of its pods, with the rights that are installed.
// Behind the door `local` it serves anybody over HTTP, behind `https` those who may.
func (w *world) start(t *testing.T, door string) {
	t.Helper()
	w.stop()
	kubeconfig := filepath.Join(w.logs, "manager.kubeconfig")
	w.must(t, `kubectl config view --raw --minify --flatten >'`+kubeconfig+`' && export KUBECONFIG='`+kubeconfig+`' &&
		token=$(kubectl -n chatrun-system create token chatrun-manager) &&
		kubectl config set-credentials manager --token="$token" && kubectl config set-context --current --user=manager`)
	var args []string
	if door == "https" {
		args = []string{"--stream-local=false", "--stream-ticket-secret=chatrun-system/chatrun-stream-tickets"}
	}
	process, err := harness.StartProcess(w.binary, kubeconfig, "chatrun-system", "docs", w.log(), args...)
	if err != nil {
		t.Fatal(err)
	}
	w.manager, w.stream = process, process.Stream
	if door == "https" {
		w.stream = strings.Replace(w.stream, "http:", "https:", 1)
	}
	w.must(t, "until curl -ks --retry 100 --retry-connrefused --retry-delay 1 -o /dev/null "+w.stream+"/ui/; do :; done")
}

func (w *world) log() string { return filepath.Join(w.logs, "manager.log") }

func (w *world) stop() {
	if w.manager == nil {
		return
	}
	_ = w.manager.Terminate() // it is waited for
	w.manager = nil
}

// clear takes away what one page has left behind for the next.
func (w *world) clear(t *testing.T) {
	t.Helper()
	w.must(t, `kubectl get crd chatruns.chatrun.dev >/dev/null || make -s install
		kubectl get ns team >/dev/null || kubectl create ns team
		for ns in default team; do
			kubectl -n $ns delete chatruns,chatproviders,secrets,configmaps,serviceaccounts,rolebindings --all --wait=false
		done
		kubectl delete clusterrolebinding prometheus-reads-chatrun --ignore-not-found`)
}

// fill puts into a command what the reader is to fill in.
func (w *world) fill(text string) string {
	return strings.NewReplacer(
		"sk-ant-…", key, "sk-…", key,
		"registry.example/", w.registry+"/",
		"https://127.0.0.1:8090", w.stream, "http://127.0.0.1:8090", w.own,
		"http://127.0.0.1:11434/v1", w.provider.URL()+"/v1", "OPENAI_API_KEY=none", "OPENAI_API_KEY="+key,
		"…/.demo/kubeconfig", "$KUBECONFIG", "…/.demo/manager.log", w.log(), "…/kubectl", "kubectl", "http://127.0.0.1:…", w.stream,
	).Replace(text)
}
