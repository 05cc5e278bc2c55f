// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

// Package frontdoor reads streams through the API server: a control plane with
// the aggregation layer, config/front-door as it stands, and the real manager
// with the rights that config/ gives its ServiceAccount. There is no node and no
// DNS, so the Service leads to loopback by an ExternalName; all else is as in a
// cluster.
package frontdoor

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-logr/logr"
	. "github.com/onsi/gomega"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	ctrl "sigs.k8s.io/controller-runtime"

	"chatrun.dev/operator/api/v1alpha1"
	"chatrun.dev/operator/internal/chattest"
	"chatrun.dev/operator/test/harness"
)

const (
	// patience is for what should take a moment, on a machine that is busy.
	patience = time.Minute
	// outage is for what the API server looks at twice a minute.
	outage = 2 * time.Minute

	home       = "chatrun-system"
	account    = "chatrun-manager"
	service    = "chatrun-stream"
	apiService = "v1alpha1.stream.chatrun.dev"
	reader     = "chatrun-stream-reader"
)

// binary builds the manager once.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "chatrun-manager-")
	if err != nil {
		return "", err
	}
	return harness.BuildManager(context.Background(), dir)
})

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard()) // it complains if nobody says
	code := m.Run()
	if path, err := binary(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path)) // a file that is left fails nobody
	}
	os.Exit(code)
}

// door is a control plane with the front door open.
type door struct {
	plane  *harness.ControlPlane
	client kubernetes.Interface
	proxy  *harness.FrontProxy
	// serving signed the manager's certificate.
	serving *harness.Authority
	// admin and manager are kubeconfigs, address is where the manager listens.
	admin, manager, address string
	certificate             string
	process                 *harness.Process
}

// open makes one, with flags of the API server beside those of the aggregation layer.
func open(t *testing.T, flags ...harness.Flag) *door {
	t.Helper()
	g := NewWithT(t)
	d := &door{certificate: t.TempDir()}
	var err error
	d.proxy, err = harness.NewFrontProxy(t.TempDir())
	g.Expect(err).NotTo(HaveOccurred())
	d.serving, err = harness.NewAuthority("serving")
	g.Expect(err).NotTo(HaveOccurred())
	pair, err := d.serving.Issue(service, service+"."+home+".svc", "localhost", "127.0.0.1")
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(pair.Write(d.certificate)).To(Succeed())
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	g.Expect(err).NotTo(HaveOccurred())
	d.address = listener.Addr().String()
	g.Expect(listener.Close()).To(Succeed())

	d.plane, err = harness.StartControlPlane(t.Context(), append(d.proxy.Flags(), flags...)...)
	g.Expect(err).NotTo(HaveOccurred())
	t.Cleanup(func() {
		if err := d.plane.Stop(); err != nil {
			t.Errorf("stopping the control plane: %v", err)
		}
	})
	d.client, err = kubernetes.NewForConfig(d.plane.Config)
	g.Expect(err).NotTo(HaveOccurred())
	d.admin, err = d.plane.AdminKubeconfig()
	g.Expect(err).NotTo(HaveOccurred())
	d.apply(t)
	d.manager = d.managerKubeconfig(t)
	d.start(t)
	d.untilAvailable(t)
	return d
}

// overlay is what docs/access.md tells an operator to write, the authority in
// hand, and then what stands for DNS and nodes here.
const overlay = `resources:
- ../front-door
patches:
- target:
    kind: APIService
    name: v1alpha1.stream.chatrun.dev
  patch: |-
    - op: add
      path: /spec/caBundle
      value: %[1]s
    - op: replace
      path: /spec/service/port
      value: %[2]s
- target:
    kind: Service
    name: chatrun-stream
  patch: |-
    - op: replace
      path: /spec
      value: {type: ExternalName, externalName: localhost, ports: [{port: %[2]s}]}
- target:
    kind: Deployment
  patch: |-
    $patch: delete
    apiVersion: apps/v1
    kind: Deployment
    metadata:
      name: chatrun-manager
      namespace: chatrun-system
`

// apply applies config/front-door.
func (d *door) apply(t *testing.T) {
	t.Helper()
	g := NewWithT(t)
	tree := t.TempDir()
	g.Expect(os.CopyFS(tree, os.DirFS(filepath.Join(harness.Root(), "config")))).To(Succeed())
	g.Expect(os.Mkdir(filepath.Join(tree, "mine"), 0o700)).To(Succeed())
	_, port, err := net.SplitHostPort(d.address)
	g.Expect(err).NotTo(HaveOccurred())
	mine := fmt.Sprintf(overlay, base64.StdEncoding.EncodeToString(d.serving.PEM), port)
	g.Expect(os.WriteFile(filepath.Join(tree, "mine", "kustomization.yaml"), []byte(mine), 0o600)).To(Succeed())
	// The harness made the kinds already.
	d.must(t, d.admin, "apply", "--server-side", "--force-conflicts", "-k", filepath.Join(tree, "mine"))
}

// managerKubeconfig is for the manager's ServiceAccount, so that its rights are
// those of config/ and no others.
func (d *door) managerKubeconfig(t *testing.T) string {
	t.Helper()
	g := NewWithT(t)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: new(int64(3600))}}
	token, err := d.client.CoreV1().ServiceAccounts(home).CreateToken(t.Context(), account, request, metav1.CreateOptions{})
	g.Expect(err).NotTo(HaveOccurred())
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: d.plane.Config.Host, CertificateAuthorityData: d.plane.Config.CAData}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: token.Status.Token}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u", Namespace: home}
	config.CurrentContext = "x"
	path := filepath.Join(t.TempDir(), "manager.kubeconfig")
	g.Expect(clientcmd.WriteToFile(*config, path)).To(Succeed())
	return path
}

// start starts the manager, until the test ends.
func (d *door) start(t *testing.T) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "manager.log")
	process, err := harness.StartProcess(path, d.manager, home, "front-door", log,
		"--stream-local=false", "--stream-front-door", "--stream-bind-address="+d.address, "--stream-cert-dir="+d.certificate,
		"--stream-ticket-secret="+home+"/chatrun-stream-tickets")
	if err != nil {
		t.Fatal(err)
	}
	d.process = process
	t.Cleanup(func() {
		if err := process.Kill(); err != nil {
			t.Errorf("ending the manager: %v", err)
		}
		if t.Failed() {
			if raw, err := os.ReadFile(log); err == nil {
				t.Logf("the manager's log:\n%s", raw)
			}
		}
	})
}

func (d *door) untilAvailable(t *testing.T) {
	t.Helper()
	d.must(t, d.admin, "wait", "--for=condition=Available", "--timeout="+outage.String(), "apiservice/"+apiService)
}

// kubectl runs the control plane's, with a cache of its own, so that what it
// knows of the API server is what that says now.
func (d *door) kubectl(t *testing.T, kubeconfig string, args ...string) (answer, warnings string, err error) {
	t.Helper()
	cmd := d.command(t.Context(), t.TempDir(), kubeconfig, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	return stdout.String(), stderr.String(), err
}

func (*door) command(ctx context.Context, cache, kubeconfig string, args ...string) *exec.Cmd {
	path := filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl")
	return exec.CommandContext(ctx, path, append([]string{"--kubeconfig=" + kubeconfig, "--cache-dir=" + cache}, args...)...)
}

// must runs kubectl, which must succeed.
func (d *door) must(t *testing.T, kubeconfig string, args ...string) string {
	t.Helper()
	answer, warnings, err := d.kubectl(t, kubeconfig, args...)
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, warnings)
	}
	return answer
}

// user is somebody with a kubeconfig.
type user struct {
	name, kubeconfig string
	cfg              *rest.Config
}

// user makes somebody who has no rights yet.
func (d *door) user(t *testing.T, name string, groups ...string) user {
	t.Helper()
	cfg, kubeconfig, err := d.plane.AddUser(name, groups...)
	if err != nil {
		t.Fatal(err)
	}
	return user{name, kubeconfig, cfg}
}

// grant binds a role of config/rbac/users to a user or a group, in one namespace.
func (d *door) grant(t *testing.T, namespace, role, kind, name string) {
	t.Helper()
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role + "-" + name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}},
	}
	if _, err := d.client.RbacV1().RoleBindings(namespace).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// place is a namespace with a fake provider in it.
type place struct {
	*door

	namespace string
	fake      *chattest.Server
}

func (d *door) place(t *testing.T, name string, script chattest.Script) *place {
	t.Helper()
	g := NewWithT(t)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	g.Expect(d.plane.Client.Create(t.Context(), namespace)).To(Succeed())
	p := &place{door: d, namespace: name, fake: chattest.Start(t, script)}
	g.Expect(d.plane.Client.Create(t.Context(), &v1alpha1.ChatProvider{
		ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "fake"},
		Spec:       v1alpha1.ChatProviderSpec{Type: v1alpha1.ProviderOpenAI, BaseURL: p.fake.URL() + "/v1", DefaultModel: "fake-1"},
	})).To(Succeed())
	return p
}

// run makes a ChatRun.
func (p *place) run(t *testing.T, name string) {
	t.Helper()
	NewWithT(t).Expect(p.plane.Client.Create(t.Context(), &v1alpha1.ChatRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: name},
		Spec: v1alpha1.ChatRunSpec{
			ProviderRef: v1alpha1.ProviderReference{Name: "fake"}, Prompt: "question of " + name,
			Title: &v1alpha1.Title{Policy: v1alpha1.TitleNone},
		},
	})).To(Succeed())
}

// logPath is the stream of a run, as the API server knows it.
func logPath(namespace, name, query string) string {
	return "/apis/stream.chatrun.dev/v1alpha1/namespaces/" + namespace + "/chatruns/" + name + "/log?" + query
}

// httpClient is a client of a user's own, which shares no connection with others.
func (u user) httpClient(t *testing.T) *http.Client {
	t.Helper()
	config, err := rest.TLSConfigFor(u.cfg)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// get asks the API server, as a user.
func (u user) get(ctx context.Context, client *http.Client, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(u.cfg.Host, "/")+path, nil)
	if err != nil {
		return nil, err
	}
	return client.Do(req)
}
