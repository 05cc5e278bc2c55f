// Copyright The ChatRun Authors.
// SPDX-License-Identifier: Apache-2.0

package docs

// plan says what a page's reader has before they type its commands. A page without one
// has `usual`.
type plan struct {
	// door is how the manager answers readers: "local" over plain HTTP, "https" to those
	// who may, "" if the page brings a manager of its own.
	door string
	// has are commands that the page takes for done.
	has []string
	// files are the page's blocks of code that it takes for saved: by their names, with
	// the beginning of the block.
	files map[string]string
	// before is typed before a command: what the page says in a sentence, and what nodes
	// and controllers do where there are some.
	before map[string]string
}

const (
	theKey      = "kubectl create secret generic openai --from-literal=api-key=" + key
	theKeys     = theKey + " && kubectl create secret generic anthropic --from-literal=api-key=" + key
	theProvider = "kubectl apply -f config/samples/chatprovider_openai.yaml"
	providers   = "kubectl apply -f config/samples/chatprovider_openai.yaml -f config/samples/chatprovider_anthropic.yaml"
	hello       = "kubectl apply -f config/samples/chatrun_hello.yaml && kubectl wait --for=condition=Finished chr/hello --timeout=1m"
	inTeam      = "kubectl config set-context --current --namespace=team"
	inDefault   = "kubectl config set-context --current --namespace=default"
	byHelm      = "helm install chatrun charts/chatrun-operator --namespace chatrun-system --create-namespace \\\n  --set image.repository=registry.example/chatrun-operator --set image.tag=v1"
	// rolled stands for what kube-controller-manager and nodes would write.
	rolled = `kubectl -n chatrun-system patch deploy chatrun-manager --subresource=status --type=merge -p "{\"status\":{\"replicas\":2,\"updatedReplicas\":2,` +
		`\"readyReplicas\":2,\"availableReplicas\":2,\"observedGeneration\":$(kubectl -n chatrun-system get deploy chatrun-manager -o jsonpath={.metadata.generation})}}"`
)

// usual is a manager, two providers, and a run that is over.
var usual = plan{door: "local", has: []string{theKeys, providers, hello}}

var plans = map[string]plan{
	"README.md":    {door: "local"},
	"docs/demo.md": usual,
	"docs/chatrun.md": {
		door: "local", has: []string{theKeys, providers}, files: map[string]string{"hello.yaml": "apiVersion: chatrun.dev/v1alpha1\nkind: ChatRun\nmetadata:\n  name: hello"},
		before: map[string]string{
			// A run for which the provider is not there yet, so that the watch sees all of it.
			"kubectl get chr -w": "kubectl delete chatprovider openai && kubectl delete chr hello && kubectl apply -f hello.yaml",
			"kubectl wait --for=condition=Succeeded=False chr/hello --timeout=10m": "kubectl delete chr hello && " +
				"kubectl apply -f hello.yaml && kubectl patch chr hello --type merge -p '{\"spec\":{\"desiredState\":\"Cancelled\"}}'",
			"kubectl patch chr hello --type merge -p '{\"spec\":{\"desiredState\":\"Suspended\"}}'": "kubectl delete chr hello && " +
				"kubectl delete chatprovider openai && kubectl apply -f hello.yaml",
			"kubectl get chr hello -o jsonpath='{.status.output.configMapName}'": "kubectl delete chr hello && " +
				providers + " && sed 's/prompt: .*/prompt: Tell me at length./' hello.yaml | kubectl apply -f - && kubectl wait --for=condition=Finished chr/hello --timeout=1m",
		},
	},
	"docs/chatprovider.md": {door: "local", before: map[string]string{"kubectl get chp": providers}},
	"docs/providers.md":    {door: "local"},
	"docs/access.md":       {door: "https", has: []string{inTeam, theKeys, providers, hello, inDefault}},
	"docs/page.md":         {door: "https"},
	"docs/plugin.md": {door: "local", has: []string{theKey, theProvider}, before: map[string]string{
		// A run that waits, as what is over is no news.
		"kubectl chatrun watch": "kubectl delete chatprovider openai && kubectl apply -f config/samples/chatrun_hello.yaml",
	}},
	"docs/security.md": {door: "local", before: map[string]string{
		"kubectl auth can-i --list -n team --as=jane | grep stream.chatrun.dev": "kubectl -n team create rolebinding jane-watches --clusterrole=chatrun-stream-reader --user=jane",
	}},
	"docs/quickstart.md": {},
	"docs/install.md": {files: map[string]string{
		"kustomization.yaml": "# kustomization.yaml", "team-a/kustomization.yaml": "# team-a/", "all/kustomization.yaml": "# all/",
	}, before: map[string]string{
		"kubectl -n chatrun-system rollout status deploy/chatrun-manager": rolled,
		byHelm:                            "make undeploy uninstall",
		"kubectl create namespace team-a": "helm uninstall chatrun --namespace chatrun-system",
		"helm uninstall chatrun --namespace chatrun-system": byHelm, // what stands above it is for those who did not use Helm
	}},
}

// endless is a command that goes on until Ctrl-C.
type endless struct {
	// last is what it is to print before it is ended; first, if there is one, what it
	// prints before another command is typed meanwhile.
	last, first, meanwhile string
	// keep lets it go on until the page ends.
	keep bool
}

var goOn = map[string]endless{
	"make dev":                    {last: "staying up; Ctrl-C ends it"},
	"make run":                    {last: "Starting workers", keep: true},
	"kubectl get chatruns -w":     {last: "hello .* Succeeded"},
	"kubectl get chr -w":          {first: "hello .* Pending", meanwhile: providers, last: "hello .* Succeeded"},
	"kubectl chatrun watch":       {first: "hello Pending", meanwhile: theProvider, last: "hello Succeeded"},
	"tail -f …/.demo/manager.log": {last: "."},
}

// once are commands that take long, need nothing of a page, and leave nothing to it. They
// are typed once, aside.
var once = []string{
	"make demo", "make dev", "make image", "OPENAI_API_KEY=none OPENAI_BASE_URL=http://127.0.0.1:11434/v1 CHATRUN_MODEL=llama3.2 make demo",
}

// targets are make's that are typed here.
var targets = []string{"build", "clean", "controlplane", "demo", "deploy", "dev", "image", "image-push", "install", "plugin", "run", "undeploy", "uninstall"}

// named is why some commands are not typed: a sentence names them, and nobody is told to
// type them, as they lack what they are about.
const named = "a sentence names it, and nobody is told to type it"

// exceptions are the commands that are not typed here, each with the file that has it
// typed, or tests what it does, and a line of that file, or with the reason why nothing
// can. They are looked at instead (lookat_test.go). The name is the command; one that ends
// with a space and "…" is the beginning of several, and one may be of a single page.
var exceptions = map[string]exception{
	"make test …":             {file: ".ci/run", has: "make test "},
	"make test":               {file: ".ci/run", has: "make test "},
	"make test-oracle":        {file: "hack/test.sh", has: "test/oracle"},
	"make test-page":          {file: ".ci/run", has: "make test-page"},
	"make test-page …":        {file: ".ci/run", has: "make test-page"},
	"make test-readers":       {file: ".ci/run", has: "make test-readers"},
	"make test-image":         {file: ".ci/run", has: "make test-image"},
	"make verify":             {file: ".ci/run", has: "make verify"},
	"make lint":               {file: "hack/verify.sh", has: "hack/lint.sh run"},
	"make fmt lint":           {file: "hack/verify.sh", has: "hack/lint.sh"},
	"make generate":           {file: "hack/verify.sh", has: "generate"},
	"make generate manifests": {file: "hack/verify.sh", has: "manifests"},
	"make dist":               {file: "hack/verify.sh", has: "dist"},
	"make licences":           {file: "hack/verify.sh", has: "licences"},
	"make vulncheck":          {file: "test/config/supply_test.go", has: "vulncheck"},
	"make test-load":          {why: "minutes of load; `make test` runs the same suites with less"},
	"make test-netns":         {why: "root, and minutes"},
	"make bench-replicas":     {why: "minutes of load"},
	"make bench":              {file: "test/bench/rows/rows_linux_test.go", has: "TestEveryRow"},
	"make bench …":            {file: "test/bench/rows/rows_linux_test.go", has: "TestEveryRow"},
	"make bench-growth …":     {file: "test/bench/plots/growth_test.go", has: "TestGrowth"},
	"make bench-soak …":       {file: "test/bench/rows/soak_test.go", has: "TestSoakFails"},
	"make bench-docs":         {file: "test/bench/figures/figures_test.go", has: "TestFill"},
	"make bench bench-docs":   {file: "test/bench/figures/figures_test.go", has: "TestFill"},
	"make bench-code …":       {why: "what it prints means nothing on a machine that tests"},
	"make bench-code":         {why: "what it prints means nothing on a machine that tests"},
	"make bench-profile":      {why: "minutes of load"},
	"make fuzz …":             {why: "a minute for each fuzz test; `make test` runs their seeds"},
	"go test …":               {file: "hack/test.sh", has: "go list ./..."},
	"go tool pprof":           {why: "it opens a profile that is not there"},
	"go mod tidy":             {file: "hack/verify.sh", has: "go mod tidy -diff"},
	"go version -m":           {why: named},
	"go run ./hack/assets controller-manager": {file: "Makefile", has: "go run ./hack/assets controller-manager"},
	"make plugin-archives VERSION=v0.1.0":     {file: "hack/plugin/main_test.go", has: "TestKrewInstallsIt"},
	"git checkout v0.1.0":                     {why: "there is no such tag yet"},
	"make image VERSION=v0.1.0":               {file: "hack/image/image_test.go", has: "build("},
	"promtool test …":                         {file: "test/metrics/expressions_test.go", has: `{"test", "rules", monitoring("alerts_test.yaml")}`},
	"npm ci && npm run build":                 {file: "hack/readers.sh", has: "npm run build"},
	"npm test":                                {file: "hack/readers.sh", has: "npm test"},
	"kubectl -n chatrun-system port-forward deploy/chatrun-manager 8090":   {why: "there is no node that a tunnel could lead to"},
	"kubectl -n chatrun-system port-forward deploy/chatrun-manager 8090 &": {why: "there is no node that a tunnel could lead to"},
	"kubectl get --raw …":                                                   {file: "test/frontdoor/identity_test.go", has: `"get", "--raw", logPath(`},
	"docs/access.md: kubectl apply --server-side -k .":                      {file: "test/frontdoor/suite_test.go", has: `"apply", "--server-side"`},
	"docs/access.md: kubectl get apiservice v1alpha1.stream.chatrun.dev":    {file: "test/frontdoor/suite_test.go", has: "--for=condition=Available"},
	"docs/access.md: kubectl delete apiservice v1alpha1.stream.chatrun.dev": {file: "test/frontdoor/outage_test.go", has: `"delete", "apiservice"`},
	"kubectl apply --server-side -k config/samples":                         {why: "the page warns of it"},
	"kubectl get chr -l chatrun.dev/conversation=…":                         {file: "test/e2e/owners_test.go", has: "LabelConversation"},
	"make deploy":                           {why: named},
	"make image-push":                       {why: named},
	"make image-push IMG=…":                 {why: named},
	"make image image-push IMG=…":           {why: named},
	"kubectl apply":                         {why: named},
	"kubectl apply -k":                      {why: named},
	"kubectl apply --server-side":           {why: named},
	"kubectl create":                        {why: named},
	"kubectl explain":                       {why: named},
	"kubectl replace":                       {why: named},
	"kubectl scale":                         {why: named},
	"kubectl port-forward":                  {why: named},
	"kubectl get --raw":                     {why: named},
	"kubectl get --raw …/log":               {why: named},
	"kubectl get":                           {why: named},
	"kubectl api-resources":                 {why: named},
	"kubectl auth can-i get":                {why: named},
	"kubectl wait --for=condition=Finished": {why: named},
	"helm upgrade":                          {why: named},
	"helm uninstall":                        {why: named},
	"docker login":                          {why: named},
}

// exception is one of them: a file and what stands in it, or a reason.
type exception struct {
	file, has string
	why       string
}
